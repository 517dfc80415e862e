"""A policy whose every answer is held against the rules of its hook.

Shapes: P rounds side by side, N drafted nodes, F frontier nodes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from adaeagle.policy import Budget, Context, Outcome, PolicyWrapper
from adaeagle.tree import DraftTree


class Checked(PolicyWrapper):
    """Passes every hook on to `policy` and checks what comes back."""

    def plan(self, context: Context) -> Budget:
        with unchanged("plan", context):
            budget = super().plan(context)
        assert isinstance(budget, Budget), f"plan must return a Budget, got {budget!r}"
        _check_limit("depth", budget.depth, context.remaining)
        if budget.nodes is not None:
            _check_limit("nodes", budget.nodes, context.remaining)
        return budget

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        with unchanged("expand", tree, frontier, budget):
            num_children = self.policy.expand(tree, frontier, budget)
        check_tensor("expand", num_children, frontier.shape, torch.int64)
        assert num_children.min() >= 0, "expand must not return negative numbers of children"
        most = int(num_children.max())
        assert most <= budget.max_children, (
            f"expand must give a node at most max_children={budget.max_children}, got {most}"
        )
        valid = torch.ones_like(frontier, dtype=torch.bool)
        if len(tree):
            valid = tree.valid.gather(1, frontier)
        opened = ((num_children > 0) & valid).sum(1)
        width = budget.width_of(tree.num_levels)
        assert int(opened.max()) <= width, (
            f"expand must open at most width={width} nodes, got {int(opened.max())}"
        )
        if self.static_shape:
            promised = min(width, frontier.shape[1])
            assert bool((opened[valid.all(1)] == promised).all()), (
                f"static_shape must open {promised} nodes in every round, got {opened.tolist()}"
            )
        return num_children

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        with unchanged("select", tree, budget):
            keep = self.policy.select(tree, budget)
        check_tensor("select", keep, tree.valid.shape, torch.bool)
        assert not bool((keep & ~tree.valid).any()), "select must keep valid nodes only"
        reached = torch.cat((keep.new_ones(len(keep), 1), keep), dim=1)
        assert bool(reached.gather(1, tree.parents + 1)[keep].all()), (
            "select must keep the parent of every node it keeps"
        )
        if budget.nodes is not None:
            most = torch.as_tensor(budget.nodes)
            assert bool((keep.sum(1) <= most).all()), (
                f"select must keep at most nodes={budget.nodes}, got {keep.sum(1).tolist()}"
            )
        return keep

    def observe(self, outcome: Outcome) -> None:
        with unchanged("observe", outcome):
            super().observe(outcome)


@contextmanager
def unchanged(hook: str, *inputs: Any) -> Iterator[None]:
    """Fails where a hook wrote into a tensor it was given."""
    tensors = [tensor for value in inputs for tensor in _tensors(value)]
    before = [tensor.clone() for tensor in tensors]
    yield
    same = all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
    assert same, f"{hook} must not change what it is given"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        return [t for field in fields(value) for t in _tensors(getattr(value, field.name))]
    return []


def check_tensor(hook: str, found: Any, shape: torch.Size, dtype: torch.dtype) -> None:
    """Fails where a hook's answer is no tensor of this shape and dtype."""
    assert isinstance(found, Tensor), f"{hook} must return a tensor, got {found!r}"
    assert found.shape == shape, f"{hook} must return {tuple(shape)}, got {tuple(found.shape)}"
    assert found.dtype == dtype, f"{hook} must return {dtype}, got {found.dtype}"


def _check_limit(name: str, limit: int | Tensor, remaining: Tensor) -> None:
    if isinstance(limit, Tensor):
        check_tensor(f"plan's {name}", limit, remaining.shape, torch.int64)
    assert int(torch.as_tensor(limit).min()) >= 0, f"plan's {name} must be >= 0, got {limit}"
