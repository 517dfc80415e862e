"""What a round costs on the machine where it was measured, told from its shape alone.

Shapes: R rounds, L draft forwards at most, T texts.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaeagle.cost.table import Table
from adaeagle.data.bundled import bundled_cost
from adaeagle.data.files import write_whole

FORMAT, VERSION = "adaeagle cost table", 1
LOOKUP_SECONDS = 1.5e-4
"""What a level of children that are looked up takes where it was not measured."""


@dataclass(frozen=True, slots=True)
class RoundShapes:
    """What rounds ran."""

    contexts: Tensor  # [R] int64, tokens committed before the root: its keys in the cache
    widths: Tensor  # [R, L] int64, nodes each draft forward ran, 1 (the root) first; 0: none
    nodes: Tensor  # [R] int64, drafted tokens verified, the root not counted
    is_tree: Tensor  # [R] bool, somewhere more than one child or node a level; else a chain
    caught_up: Tensor | None = None  # [R] tokens the first draft forward takes in; None: several
    num_lookups: Tensor | None = None  # [R] levels whose children were looked up; None: none

    def __post_init__(self) -> None:
        num_rounds = len(self.contexts)
        expected = {"widths": (2, num_rounds), "nodes": (1, num_rounds), "is_tree": (1, num_rounds)}
        for name, (ndim, length) in expected.items():
            values = getattr(self, name)
            if values.ndim != ndim or len(values) != length:
                raise ValueError(
                    f"{name} must be {ndim}-dimensional with {length} rounds as contexts, "
                    f"got {tuple(values.shape)}"
                )

    def rows(self, chosen: Tensor) -> "RoundShapes":
        """Some of the rounds, by bool [R] or by index."""
        return RoundShapes(
            self.contexts[chosen],
            self.widths[chosen],
            self.nodes[chosen],
            self.is_tree[chosen],
            None if self.caught_up is None else self.caught_up[chosen],
            None if self.num_lookups is None else self.num_lookups[chosen],
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """A round's parts for one kind of draft: chains need neither mask nor compaction, trees do.

    Draft forwards differ by their place: the first takes in what was accepted, for which several
    tokens need a mask; the second still finds the verification's weights where the draft model's
    will be cached.
    """

    first: Table  # catches up and runs the root; by tokens taken in: 1, or 2 for any more
    second: Table  # by width
    next: Table  # each after them, by width
    verify: Table  # by nodes; 0: plain decoding's step
    other: Table  # the rest of a round, by nodes


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of draft forwards, verifications, the rest of a round, and prefills.

    The parts are those of the engine's clock, so sums over rounds compare with `draft_seconds`,
    `verify_seconds` and `other_seconds` of live runs. What a policy takes to decide is in none.
    """

    chain: Parts
    tree: Parts
    prefill: Table  # by prompt tokens, as its contexts; of one size, 0
    draft_prefill: Table  # likewise: the first draft forward of a text, which reads the prompt
    about: dict[str, Any] = field(default_factory=dict)  # where the seconds come from
    lookup: float = LOOKUP_SECONDS  # of a level of children that are looked up
    # By how many texts ran side by side, see `adaeagle.cost.batches`.
    batches: "dict[int, CostModel]" = field(default_factory=dict)

    @classmethod
    def linear(
        cls,
        *,
        constant: float,
        draft: float,
        verify: float,
        node: float = 0.0,
        width: float = 0.0,
        prefill: float = 0.0,
    ) -> "CostModel":
        """A made-up machine, for tests and synthetic studies; all in seconds.

        Args:
            constant: a round's part that is neither draft nor verification.
            draft: a draft forward of one node.
            verify: a step of plain decoding.
            node: what each drafted node adds to a verification.
            width: what each further node adds to a draft forward.
            prefill: each token of a prompt.
        """
        parts = Parts(
            first=Table.stated([1], [draft]),
            second=Table.stated([1, 2], [draft, draft + width]),
            next=Table.stated([1, 2], [draft, draft + width]),
            verify=Table.stated([0, 1], [verify, verify + node]),
            other=Table.stated([0], [constant]),
        )
        by_token = Table.stated([0, 1], [0.0, prefill])
        about = {"made_up": True}
        return cls(parts, parts, _turned(by_token), Table.stated([0], [draft]), about)

    def draft_seconds(self, shapes: RoundShapes) -> Tensor:
        """All draft forwards and look-ups of each round, [R]."""
        seconds = self._by_kind(shapes, _draft_seconds)
        return seconds if shapes.num_lookups is None else seconds + self.lookup * shapes.num_lookups

    def verify_seconds(self, shapes: RoundShapes) -> Tensor:
        """The target's forward and acceptance, [R]; of 0 nodes: plain decoding's step."""
        return self._by_kind(shapes, lambda parts, some: parts.verify.at(some.nodes, some.contexts))

    def other_seconds(self, shapes: RoundShapes) -> Tensor:
        """Choosing, masks, commit and the like, [R]; without what the policy takes."""
        return self._by_kind(shapes, lambda parts, some: parts.other.at(some.nodes, some.contexts))

    def round_seconds(self, shapes: RoundShapes) -> Tensor:
        """Draft, verification and the rest together, [R]."""
        drafted = self.draft_seconds(shapes)
        return drafted + self.verify_seconds(shapes) + self.other_seconds(shapes)

    def prefill_seconds(self, num_tokens: Tensor) -> Tensor:
        """The target's forward of prompts of [T] int64 tokens, [T]."""
        return self.prefill.at(torch.zeros_like(num_tokens), num_tokens)

    def draft_prefill_seconds(self, num_tokens: Tensor) -> Tensor:
        """A text's first draft forward, [T]: it reads the prompt, of [T] int64 tokens, as well.

        In the text's first round that drafts it stands in place of the first forward's seconds.
        """
        return self.draft_prefill.at(torch.zeros_like(num_tokens), num_tokens)

    def _by_kind(
        self, shapes: RoundShapes, price: Callable[[Parts, RoundShapes], Tensor]
    ) -> Tensor:
        seconds = torch.zeros(
            len(shapes.contexts), dtype=torch.float64, device=shapes.contexts.device
        )
        for parts, rows in ((self.chain, ~shapes.is_tree), (self.tree, shapes.is_tree)):
            if rows.all():
                return price(parts, shapes)
            seconds[rows] = price(parts, shapes.rows(rows))
        return seconds

    def check(self, target_weights: str, drafter_weights: str | None) -> None:
        """Refuses models that the seconds were not measured with.

        A made-up table fits all; a drafter without a network has no weights to tell apart.

        Raises:
            ValueError: the table was measured with others.
        """
        config = self.about.get("config", {})
        ours = {"target": target_weights, "drafter": drafter_weights}
        for kind, weights in ours.items():
            measured = config.get(f"{kind}_weights")
            if measured and weights and measured != weights:
                raise ValueError(
                    f"its {kind} must have the weights it was measured with: the cost table is of "
                    f"{config.get('target')!r} with {config.get('drafter')!r}; `adaeagle profile` "
                    "makes one for these models"
                )

    def to_json(self) -> dict[str, Any]:
        kinds = {"chain": self.chain, "tree": self.tree}
        return {
            "format": FORMAT,
            "version": VERSION,
            "about": self.about,
            **{
                kind: {name: getattr(parts, name).to_json() for name in Parts.__slots__}
                for kind, parts in kinds.items()
            },
            "prefill": self.prefill.to_json(),
            "draft_prefill": self.draft_prefill.to_json(),
            "lookup": self.lookup,
            "batches": {str(count): model.to_json() for count, model in self.batches.items()},
        }

    @classmethod
    def from_json(cls, raw: Any) -> "CostModel":
        """What `to_json` gave.

        Raises:
            ValueError: it is no cost table, or one of another version.
        """
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ValueError(f"it must say 'format': {FORMAT!r}, as `adaeagle profile` writes it")
        if raw.get("version") != VERSION:
            raise ValueError(f"its version must be {VERSION}, got {raw.get('version')!r}")
        try:
            chain, tree = (_parts(raw[kind]) for kind in ("chain", "tree"))
            prefill, draft_prefill = (
                Table.from_json(raw[name]) for name in ("prefill", "draft_prefill")
            )
            lookup = float(raw.get("lookup", LOOKUP_SECONDS))  # early tables have none
            batches = {
                int(count): cls.from_json(own) for count, own in raw.get("batches", {}).items()
            }
            return cls(chain, tree, prefill, draft_prefill, dict(raw["about"]), lookup, batches)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"its tables must be whole, got {error!r}") from error

    def save(self, path: Path | str) -> None:
        """Writes the tables as JSON."""
        write_whole(Path(path), (json.dumps(self.to_json(), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path | str) -> "CostModel":
        """Reads what `save` wrote, or the bundled table of that name ("mini").

        Raises:
            OSError: there is no such file.
            ValueError: it holds no cost table of this version.
        """
        try:
            return cls.from_json(json.loads((bundled_cost(str(path)) or Path(path)).read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path} holds no cost table: {error}") from error


def _parts(raw: dict[str, Any]) -> Parts:
    raw = {"second": raw["next"]} | raw  # early tables had one for the second and all after it
    return Parts(**{name: Table.from_json(raw[name]) for name in Parts.__slots__})


def _draft_seconds(parts: Parts, shapes: RoundShapes) -> Tensor:
    contexts, widths = shapes.contexts.unsqueeze(1), shapes.widths
    root, after_it, later = widths[:, :1], widths[:, 1:2], widths[:, 2:]
    taken_in = torch.full_like(root, 2)
    if shapes.caught_up is not None:
        taken_in = shapes.caught_up.clamp(1, 2).unsqueeze(1).expand_as(root)
    first = parts.first.at(taken_in, contexts) * (root > 0)
    second = parts.second.at(after_it, contexts) * (after_it > 0)
    following = parts.next.at(later, contexts) * (later > 0)
    return first.sum(1) + second.sum(1) + following.sum(1)


def _turned(table: Table) -> Table:
    """Sizes as contexts, of one size, 0."""
    cells = (values.T for values in (table.low, table.median, table.high, table.count))
    return Table(table.contexts, table.sizes, *cells)
