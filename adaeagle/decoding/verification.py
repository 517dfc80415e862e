"""Which drafted tokens the target accepts: pure functions on tensors.

Shapes: P rounds, N verified nodes, V vocabulary, K children of one node.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaeagle.tree import ROOT, DraftTree


def greedy(tree: DraftTree, paths: Tensor, target_token_ids: Tensor) -> Tensor:
    """Accepts a node iff it and its whole path are the target's own choices.

    Args:
        tree: the verified nodes.
        paths: [P, N, N] bool, `ancestors` of the tree.
        target_token_ids: [P, N+1] int64, the target's choice after the root and after every node.

    Returns:
        [P, N] bool. Siblings differ, so what is accepted is one path from the root.
    """
    chosen_ids = target_token_ids.gather(1, tree.parents + 1)
    matches = (chosen_ids == tree.token_ids) & tree.valid
    return ~(paths & ~matches.unsqueeze(1)).any(dim=2)


@dataclass(frozen=True, slots=True)
class SampledPath:
    """The outcome of sampled verification of one round."""

    rows: list[int]  # accepted nodes, from the root down
    tested: list[int]  # nodes that were tried, accepted or not
    bonus_probs: Tensor  # [V] the distribution of the token after the last accepted node


def accept_child(
    target_probs: Tensor,
    children: Sequence[int],
    draft_probs: Tensor | None,
    uniform: Callable[[], float],
) -> tuple[int | None, int, Tensor]:
    """Tries a node's children in order; the accepted one follows the target's distribution exactly.

    The multi-candidate recursion of SpecInfer (Miao et al. 2023, https://arxiv.org/abs/2305.09781)
    for children drawn without replacement; where children are a fixed function of the draft
    distribution (EAGLE-2's top-k) each counts as drawn from a point mass.

    Args:
        target_probs: [V] the target's distribution after this node.
        children: their tokens, distinct, in the order they were proposed.
        draft_probs: [V] the distribution they were drawn from; None: point masses.
        uniform: draws from U(0, 1); called once a child tried.

    Returns:
        which child was accepted or None, how many were tried, and the distribution of the token
        that follows where none was: the residual, [V].
    """
    residual = target_probs
    if draft_probs is None:
        left = 1.0
        chances = target_probs[torch.tensor(children, device=target_probs.device)].tolist()
        for index, chance in enumerate(chances):
            if uniform() <= chance / left if left > 0 else False:
                return index, index + 1, residual
            left -= chance
        residual = target_probs.clone()
        residual[torch.tensor(children, device=target_probs.device)] = 0
        return None, len(children), _normalised(residual, target_probs)
    draft = draft_probs
    for index, token in enumerate(children):
        drafted = float(draft[token])  # one host sync a child
        chance = float(residual[token])
        if drafted > 0 and uniform() <= chance / drafted:
            return index, index + 1, residual
        residual = _normalised((residual - draft).clamp_(min=0), residual)
        draft = draft.clone()
        draft[token] = 0
        draft = _normalised(draft, draft)
    return None, len(children), residual


def _normalised(weights: Tensor, otherwise: Tensor) -> Tensor:
    """`weights` as a distribution; `otherwise` where rounding left none, so that nothing else is
    emitted.
    """
    total = weights.sum()
    return torch.where(total > 0, weights / total, otherwise)


def rejection(
    tree: DraftTree,
    target_probs: Tensor,
    draft_distributions: Tensor | None,
    uniform: Callable[[], float],
) -> SampledPath:
    """Walks one round's tree from the root, so that the emitted tokens follow the target's
    distribution.

    Args:
        tree: the verified nodes of one round (P = 1).
        target_probs: [N+1, V] the target's distribution after the root and after every node.
        draft_distributions: [E, V] the distribution of every draft row (`tree.origins`); None:
            point masses.
        uniform: draws from U(0, 1).
    """
    token_ids = tree.token_ids[0].tolist()
    children: dict[int, list[int]] = {}
    for row, (parent, valid) in enumerate(
        zip(tree.parents[0].tolist(), tree.valid[0].tolist(), strict=True)
    ):
        if valid:
            children.setdefault(parent, []).append(row)
    path: list[int] = []
    tested: list[int] = []
    node = ROOT
    while rows := children.get(node):
        draft_probs = (
            None if draft_distributions is None else draft_distributions[tree.origins[0, rows[0]]]
        )
        index, tried, residual = accept_child(
            target_probs[node + 1], [token_ids[row] for row in rows], draft_probs, uniform
        )
        tested += rows[:tried]
        if index is None:
            return SampledPath(path, tested, residual)
        node = rows[index]
        path.append(node)
    return SampledPath(path, tested, target_probs[node + 1])
