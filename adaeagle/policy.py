"""What a drafting policy decides, and the records it decides on.

Shapes: P rounds side by side (1 in live decoding of one text), N drafted nodes, F frontier nodes.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from adaeagle.display import Displayed
from adaeagle.identity import Identify
from adaeagle.search_space import SearchSpace
from adaeagle.tree import ROOT, DraftTree, Level, likeliest

ProposalMode = Literal["top_k", "draw"]
Scope = Literal["row", "batch"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one round. `depth=0` decodes one token plainly.

    `depth` and `nodes` may be one number for all rounds or an int64 tensor [P].
    """

    depth: int | Tensor  # levels of the tree, one after another
    width: int | tuple[int, ...] = 1  # nodes expanded by one draft forward, or by each in turn
    nodes: int | Tensor | None = None  # drafted tokens verified; None: all of them
    children: int | None = None  # most children of one node; None: the greatest width

    def __post_init__(self) -> None:
        widths = (self.width,) if isinstance(self.width, int) else self.width
        if not widths or min(widths) < 1:
            raise ValueError(f"width must be >= 1, got {self.width}")
        if self.children is not None and self.children < 1:
            raise ValueError(f"children must be >= 1, got {self.children}")
        if isinstance(self.depth, int) and self.depth < 0:
            raise ValueError(f"depth must be >= 0, got {self.depth}")

    @property
    def max_children(self) -> int:
        if self.children is not None:
            return self.children
        return self.width if isinstance(self.width, int) else max(self.width)

    def width_of(self, forward: int) -> int:
        """Nodes expanded by a draft forward, counted from 0; the first expands the root."""
        if isinstance(self.width, int):
            return self.width
        return self.width[min(forward, len(self.width) - 1)]


@dataclass(frozen=True, slots=True)
class Needs:
    """What is read of drafts beside the drafted tokens; `|` joins two of them."""

    entropy: bool = False  # `tree.entropies`
    num_confidences: int = 0  # `tree.confidences`: so many of each distribution's best tokens
    log_probs: bool = False  # `tree.log_probs` as such, not only their order
    scores: bool = False  # `tree.scores`, which drafters of ready-made candidates have

    @property
    def distribution(self) -> bool:
        """Something is read that only a draft distribution has."""
        return self.log_probs or self.entropy or self.num_confidences > 0

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.entropy or other.entropy,
            max(self.num_confidences, other.num_confidences),
            self.log_probs or other.log_probs,
            self.scores or other.scores,
        )


NOTHING = Needs()


@dataclass(frozen=True, slots=True)
class Context:
    """What is known before a round drafts anything."""

    round: int  # 0 for the first round of a text; -1 where positions are replayed out of order
    num_tokens: Tensor  # [P] int64, on the CPU: prompt and text so far, the pending token included
    remaining: Tensor  # [P] int64, on the CPU: tokens that may still be emitted, >= 1
    token_ids: Tensor  # [P] int64: the pending token, already decided
    last_token_ids: Tensor  # [P] int64: the last token the target was run on
    features: Tensor | None = None  # [P, D] the target's feature of that token
    # count → [P] the last tokens of prompt and text, at most so many, the pending one last: lists,
    # since they are searched on the host. Few policies read them: to be asked for while planning.
    recent: Callable[[int], list[list[int]]] | None = None
    # count → [P, <= count] float32, the target's best log-probs where the pending token was chosen,
    # before any processor; traces hold 8. To be asked for while planning, too.
    target_log_probs: Callable[[int], Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What verification found. A node whose parent fell was never tested."""

    tree: DraftTree  # the nodes that were verified
    tested: Tensor  # [P, N] bool
    accepted: Tensor  # [P, N] bool, a subset of tested
    num_accepted: Tensor  # [P] int64, without the bonus token
    num_emitted: Tensor  # [P] int64, with it
    depth: Tensor  # [P] int64: levels drafted
    draft_seconds: Tensor  # [P] float64
    verify_seconds: Tensor  # [P] float64

    @classmethod
    def of(
        cls,
        tree: DraftTree,
        accepted: Tensor,
        left: Tensor,
        *,
        depth: Tensor,
        draft_seconds: Tensor,
        verify_seconds: Tensor,
        tested: Tensor | None = None,
    ) -> "Outcome":
        """What a policy learns of rounds whose texts may end in them.

        What was drafted below the token that ends a text is nobody's text: it counts as not tested.

        Args:
            tree: N verified nodes.
            accepted: [P, N] bool, one path from the root.
            left: [P] int64, how many tokens each text still takes until its end, and no less than
                the round emits where it does not end; 0 where there was no round.
            depth: [P] int64, levels drafted.
            draft_seconds: [P] float64.
            verify_seconds: [P] float64.
            tested: [P, N] bool; None: whatever hangs from the root or from an accepted node.
        """
        end = left.to(accepted.device).unsqueeze(1)
        accepted = accepted & (tree.depths <= end)
        if tested is None:
            reached = torch.cat((end > 0, accepted & (tree.depths < end)), dim=1)
            tested = reached.gather(1, tree.parents + 1)
        num_accepted = accepted.sum(1).cpu()
        return cls(
            tree=tree,
            tested=tested & tree.valid & (tree.depths <= end),
            accepted=accepted,
            num_accepted=num_accepted,
            num_emitted=torch.minimum(num_accepted + 1, left),
            depth=depth,
            draft_seconds=draft_seconds,
            verify_seconds=verify_seconds,
        )


class Component(Displayed, ABC):
    """What policies and stop rules have in common: what they read, what they learn.

    Two of them are equal whose class and arguments are, whatever each has learned.
    """

    learns: bool = False
    """`observe` changes later decisions, so rounds must be replayed in step."""

    scope: Scope = "row"
    """`batch`: rounds side by side share a budget, or what is learned; else each goes as alone."""

    needs: Needs = NOTHING
    """What of the drafts is read."""

    parts: "tuple[Component, ...]" = ()
    """The policies and stop rules that it is made of."""

    search_space: ClassVar[SearchSpace] = {}
    """Which arguments a sweep may set, and within which bounds."""

    _given: tuple[tuple[Any, ...], dict[str, Any]]  # what the constructor was called with

    def __new__(cls, *positional: Any, **keywords: Any) -> Self:
        made = super().__new__(cls)
        made._given = positional, keywords
        return made

    def summary(self) -> dict[str, object]:
        positional, keywords = self._given
        given = inspect.signature(type(self)).bind_partial(*positional, **keywords)
        given.apply_defaults()
        return dict(given.arguments)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Component)
            and type(self) is type(other)
            and self.summary() == other.summary()
        )

    def __hash__(self) -> int:
        return hash(type(self))

    @classmethod
    def is_feasible(cls, arguments: Mapping[str, Any]) -> bool:
        """Whether arguments within their bounds go together: others are not tried.

        Args:
            arguments: of the constructor, all of them, by name.
        """
        return True

    def check(self, identify: Identify) -> None:
        """Before the first text: refuse models that this was not made for.

        Raises:
            ValueError: the message says which, and for which it was made.
        """

    def reset(self) -> None:
        """Begin a text: forget the last one, keep what was learned across them."""

    def observe(self, outcome: Outcome) -> None:
        """After verification: learn. Called only where `learns` is true."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned across texts; empty for a rule that learns nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class Composite(Component):
    """A policy or stop rule made of others, which passes on what concerns them all.

    Args:
        *parts: each learns by itself, and keeps its own state.
    """

    def __init__(self, *parts: Component) -> None:
        self.parts = parts
        self.learns = any(part.learns for part in parts)
        self.needs = reduce(or_, (part.needs for part in parts), self.needs)
        if any(part.scope == "batch" for part in parts):
            self.scope = "batch"

    def check(self, identify: Identify) -> None:
        for part in self.parts:
            part.check(identify)

    def reset(self) -> None:
        for part in self.parts:
            part.reset()

    def observe(self, outcome: Outcome) -> None:
        for part in self.parts:
            if part.learns:
                part.observe(outcome)

    def state_dict(self) -> dict[str, Any]:
        states = {str(place): part.state_dict() for place, part in enumerate(self.parts)}
        return {place: state for place, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for place, part_state in state.items():
            self.parts[int(place)].load_state_dict(part_state)


class Policy(Component):
    """Decides how much to draft and in which shape; never what is accepted.

    For each text the round calls `reset`; then, every round, `plan`, `expand` before each level
    (the first time for the root alone), `select` once, and `observe` after verification. Tensors
    carry a leading axis P, one entry a round: 1 when one text is decoded, all recorded positions
    when a trace is replayed. Rows keep their places from one `reset` to the next, so what is
    learned is one entry a row; a text at its end drafts nothing and teaches nothing. With `scope`
    "batch" rows are texts that run together, and a place may pass to another text.

    Lossless rule: a token drawn at random is always verified. `expand` may look at drawn tokens,
    since it only decides whether to go deeper; `select` is called only where children are a fixed
    function of the draft distribution (`proposal == "top_k"`, or temperature 0).
    """

    proposal: ProposalMode = "top_k"
    """Where children come from: the draft distribution's likeliest tokens, or tokens drawn from it
    without replacement."""

    drafts: bool = True
    """Some round may draft. Where none does, no drafter runs and no features are kept for it."""

    static_shape: bool = False
    """Every round opens as many nodes as the budget says, so the host never needs to ask."""

    shares_prefix: bool = False
    """Drafts what any policy of its class does that has the same width and children, as far as both
    go: they differ in depth and nodes alone, so that a replay drafts once for all of them."""

    @abstractmethod
    def plan(self, context: Context) -> Budget:
        """Before drafting: the limits of this round."""

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        """During drafting: how many children each frontier node gets; 0 closes it.

        Args:
            tree: everything drafted in this round.
            frontier: [P, F] rows of the latest level; `[[-1]]`, the root, at first.
            budget: this round's limits; at most `width` nodes may be opened.

        Returns:
            [P, F] int64. By default the likeliest `width` nodes get `max_children` each.
        """
        if len(tree) == 0:
            return frontier.new_full(frontier.shape, budget.max_children)
        scores = tree.path_log_probs.gather(1, frontier)
        return likeliest(scores, budget.width_of(tree.num_levels)) * budget.max_children

    def runs_network(self, tree: DraftTree, rows: Tensor, found: Level) -> Tensor | bool:
        """During drafting with a merged drafter: the nodes that its network is run after as well.

        Args:
            tree: everything drafted in this round.
            rows: [P, W] the opened nodes.
            found: what the look-up has proposed after each.

        Returns:
            bool [P, W], or one answer for all of them. By default all.
        """
        return True

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        """After drafting: the nodes to verify, [P, N] bool, closed under parents.

        By default the likeliest `nodes`, or all.
        """
        if budget.nodes is None:
            return tree.valid
        return likeliest(tree.path_log_probs, budget.nodes)


class PolicyWrapper(Composite, Policy):
    """Decides as another policy does: to be subclassed by what listens or adds to one.

    Args:
        policy: whose decisions these are.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.policy = policy
        self.proposal = policy.proposal
        self.drafts = policy.drafts
        self.static_shape = policy.static_shape

    def plan(self, context: Context) -> Budget:
        budget = self.policy.plan(context)
        self.proposal = self.policy.proposal  # a bandit's is its chosen arm's
        return budget

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        return self.policy.expand(tree, frontier, budget)

    def runs_network(self, tree: DraftTree, rows: Tensor, found: Level) -> Tensor | bool:
        return self.policy.runs_network(tree, rows, found)

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        return self.policy.select(tree, budget)

    def state_dict(self) -> dict[str, Any]:
        return self.policy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.policy.load_state_dict(state)


class StopRule(Component):
    """Decides which drafted nodes are worth drafting on from, whatever the shape.

    A rule closes nodes: a closed node stays in the tree and is verified, and gets no children. A
    rule about the whole level (all nodes of it closed) ends drafting.
    """

    def begin(self, context: Context) -> Tensor | None:
        """Before a round drafts: which rounds are worth drafting in at all, [P] bool; None: all.

        A rule that looks at the context itself keeps here what `should_continue` needs of it.
        """
        return None

    @abstractmethod
    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor | bool:
        """Which nodes stay open: frontier [P, F] rows (never the root) → bool [P, F], or one answer
        for all of them."""

    def prune(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        """After drafting: which of the nodes that the shape chose are worth verifying.

        Args:
            tree: everything drafted, at least one node.
            chosen: [P, N] bool, closed under parents.

        Returns:
            [P, N] bool, a part of `chosen` that is closed under parents. By default all of it.
        """
        return chosen


__all__ = [
    "NOTHING",
    "ROOT",
    "Budget",
    "Component",
    "Composite",
    "Context",
    "Needs",
    "Outcome",
    "Policy",
    "PolicyWrapper",
    "ProposalMode",
    "Scope",
    "StopRule",
]
