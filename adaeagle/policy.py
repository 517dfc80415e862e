"""What a drafting policy decides, and the records it decides on.

Shapes: P rounds side by side (1 in live decoding of one text), N drafted nodes, F frontier nodes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from adaeagle.identity import Identify
from adaeagle.search_space import SearchSpace
from adaeagle.tree import ROOT, DraftTree, likeliest

Proposal = Literal["top_k", "draw"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one round. `depth=0` decodes one token plainly.

    `depth` and `nodes` may be one number for all rounds or an int64 tensor [P].
    """

    depth: int | Tensor  # draft forwards, one after another
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What verification found. A node whose parent fell was never tested."""

    tree: DraftTree  # the nodes that were verified
    tested: Tensor  # [P, N] bool
    accepted: Tensor  # [P, N] bool, a subset of tested
    num_accepted: Tensor  # [P] int64, without the bonus token
    num_emitted: Tensor  # [P] int64, with it
    depth: Tensor  # [P] int64: draft forwards made
    draft_seconds: Tensor  # [P] float64
    verify_seconds: Tensor  # [P] float64


class Policy(ABC):
    """Decides how much to draft and in which shape; never what is accepted.

    For each text the round calls `reset`; then, every round, `plan`, `expand` before each draft
    forward (the first time for the root alone), `select` once, and `observe` after verification.
    Tensors carry a leading axis P, one entry a round: 1 when one text is decoded, all recorded
    positions when a trace is replayed. Rows keep their places from one `reset` to the next, so what
    is learned is one entry a row; a text at its end drafts nothing and teaches nothing.

    Lossless rule: a token drawn at random is always verified. `expand` may look at drawn tokens,
    since it only decides whether to go deeper; `select` is called only where children are a fixed
    function of the draft distribution (`proposal == "top_k"`, or temperature 0).
    """

    proposal: Proposal = "top_k"
    """Where children come from: the draft distribution's best, or drawn from it without
    replacement.
    """

    learns: bool = False
    """`observe` changes later decisions, so rounds must be replayed in step."""

    static_shape: bool = False
    """Every round opens as many nodes as the budget says, so the host never needs to ask."""

    needs_entropy: bool = False
    """Reads `tree.entropies`."""

    num_confidences: int = 0
    """Reads `tree.confidences`, so many of each distribution's best tokens."""

    shares_prefix: bool = False
    """Drafts what any policy of its class does that has the same width and children, as far as both
    go: they differ in depth and nodes alone, so that a replay drafts once for all of them."""

    search_space: ClassVar[SearchSpace] = {}
    """Which arguments a sweep may set, and within which bounds."""

    @classmethod
    def is_feasible(cls, arguments: Mapping[str, Any]) -> bool:
        """Whether arguments within their bounds go together: others are not tried.

        Args:
            arguments: of the constructor, all of them, by name.
        """
        return True

    def check(self, identify: Identify) -> None:
        """Before the first text: refuse models that this policy was not made for.

        Raises:
            ValueError: the message says which, and for which it was made.
        """

    def reset(self) -> None:
        """Begin a text: forget the last one, keep what was learned across them."""

    @abstractmethod
    def plan(self, context: Context) -> Budget:
        """Before drafting: the limits of this round."""

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        """During drafting: how many children each frontier node gets; 0 closes it.

        Args:
            tree: everything drafted in this round.
            frontier: [P, F] rows drafted by the latest forward; `[[-1]]`, the root, at first.
            budget: this round's limits; at most `width` nodes may be opened.

        Returns:
            [P, F] int64. By default the likeliest `width` nodes get `max_children` each.
        """
        if len(tree) == 0:
            return frontier.new_full(frontier.shape, budget.max_children)
        scores = tree.of_level(-1, "path_log_probs")
        return likeliest(scores, budget.width_of(tree.num_levels)) * budget.max_children

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        """After drafting: the nodes to verify, [P, N] bool, closed under parents.

        By default the likeliest `nodes`, or all.
        """
        if budget.nodes is None:
            return tree.valid
        if isinstance(budget.nodes, int) and len(tree) <= budget.nodes:
            return tree.valid
        return likeliest(tree.path_log_probs, budget.nodes)

    def observe(self, outcome: Outcome) -> None:
        """After verification: learn. Called only where `learns` is true."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned across texts; empty for a rule that learns nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


class StopRule(ABC):
    """Decides which drafted nodes are worth drafting on from, whatever the shape.

    A rule closes nodes: a closed node stays in the tree and is verified, and gets no children. A
    rule about the whole level (all nodes of it closed) ends drafting.
    """

    learns: bool = False
    needs_entropy: bool = False
    num_confidences: int = 0

    search_space: ClassVar[SearchSpace] = {}
    """Which arguments a sweep may set, and within which bounds."""

    @classmethod
    def is_feasible(cls, arguments: Mapping[str, Any]) -> bool:
        """Whether arguments within their bounds go together: others are not tried.

        Args:
            arguments: of the constructor, all of them, by name.
        """
        return True

    def check(self, identify: Identify) -> None:
        """Before the first text: refuse models that this rule was not made for.

        Raises:
            ValueError: the message says which, and for which it was made.
        """

    def reset(self) -> None:
        """Begin a text."""

    def begin(self, context: Context) -> Tensor | None:
        """Before a round drafts: which rounds are worth drafting in at all, [P] bool; None: all.

        A rule that looks at the context itself keeps here what `should_continue` needs of it.
        """
        return None

    @abstractmethod
    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        """Which nodes stay open: frontier [P, F] rows (never the root) → bool [P, F]."""

    def keep(self, tree: DraftTree, chosen: Tensor) -> Tensor:
        """After drafting: which of the nodes that the shape chose are worth verifying.

        Args:
            tree: everything drafted, at least one node.
            chosen: [P, N] bool, closed under parents.

        Returns:
            [P, N] bool, a part of `chosen` that is closed under parents. By default all of it.
        """
        return chosen

    def observe(self, outcome: Outcome) -> None:
        """After verification: learn. Called only where `learns` is true."""

    def state_dict(self) -> dict[str, Any]:
        """What was learned across texts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


__all__ = ["ROOT", "Budget", "Context", "Outcome", "Policy", "Proposal", "StopRule"]
