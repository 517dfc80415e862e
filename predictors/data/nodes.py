"""What is known of drafted nodes, in a live tree and in a trace alike, and what became of them.

Recorded nodes come from the trees that a policy drafts in a replay, so a predictor is trained on
just what it will see.
Shapes: P rounds side by side, F frontier nodes, M examples, C choices of the draft; `...` is any
shape in front, [P, F] live and [M] in training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adaeagle.policy import Needs
from adaeagle.registry import get_policy
from adaeagle.replay.replay import MAX_ROUNDS
from adaeagle.replay.rounds import outcome_of, play
from adaeagle.trace.proposer import NotRecordedError
from adaeagle.trace.trace import Trace
from adaeagle.tree import DraftTree
from predictors.base import Batch, Examples

LEAST_LOG_PROB = -20.0
"""Less likely is all the same; padding has minus infinity."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """What is known of a node before anything is drafted after it."""

    log_probs: Tensor  # [...] float32
    path_log_probs: Tensor  # [...] float32
    entropies: Tensor  # [...] float32 nats, of the distribution it was proposed from
    depths: Tensor  # [...] float32
    ranks: Tensor  # [...] float32
    confidences: Tensor | None = None  # [..., C] log-probs of that distribution's best tokens

    @classmethod
    def of_tree(cls, tree: DraftTree, rows: Tensor) -> "Nodes":
        """Rows [P, F] of a tree whose policy needs entropies."""
        assert tree.entropies is not None
        confidences = tree.confidences
        if confidences is not None:
            places = rows.unsqueeze(2).expand(-1, -1, confidences.shape[2])
            confidences = confidences.gather(1, places)
        return cls(
            tree.log_probs.gather(1, rows),
            tree.path_log_probs.gather(1, rows),
            tree.entropies.gather(1, rows),
            tree.depths.gather(1, rows).float(),
            tree.ranks.gather(1, rows).float(),
            confidences,
        )

    @classmethod
    def of_batch(cls, batch: Batch) -> "Nodes":
        """The nodes of examples that `read_nodes` gave."""
        return cls(**{name: batch.get(name) for name in cls.__slots__})  # type: ignore[arg-type]

    def scalars(self, *names: str) -> Tensor:
        """Named numbers of each node, [..., S]; `prob` and `path_prob` are no logarithms."""
        known = {
            "log_prob": self.log_probs.clamp(min=LEAST_LOG_PROB),
            "path_log_prob": self.path_log_probs.clamp(min=LEAST_LOG_PROB),
            "prob": self.log_probs.exp(),
            "path_prob": self.path_log_probs.exp(),
            "entropy": self.entropies,
            "depth": self.depths,
            "rank": self.ranks,
        }
        return torch.stack([known[name] for name in names], dim=-1)


def read_nodes(trace: Trace, shape: str, num_confidences: int = 0) -> Examples:
    """Every node that a policy would verify at any position of a trace.

    The columns are those of `Nodes`, and two labels: `tested` where the node's parent is accepted,
    so that verification judges the node, and `accepted`. What lies beyond the end of a text is left
    out.

    Args:
        trace: what was recorded.
        shape: spec of a policy that does not learn.
        num_confidences: C.

    Raises:
        ValueError: the drafts of `shape` were not recorded.
    """
    policy = get_policy(shape)
    policy.needs = policy.needs | Needs(entropy=True, num_confidences=num_confidences)
    policy.reset()
    positions = trace.positions
    parts: list[dict[str, Tensor]] = []
    for rows in torch.split(torch.arange(len(positions)), MAX_ROUNDS):
        try:
            played = play(policy, trace, rows, -1)
        except NotRecordedError as error:
            raise ValueError(f"shape must be one that was recorded, got {shape}: {error}") from None
        everywhere = torch.ones_like(rows, dtype=torch.bool)
        outcome = outcome_of(played, everywhere, positions, None)
        tree = outcome.tree
        if len(tree) == 0:
            continue
        chosen = tree.valid & (tree.depths <= positions.num_left[rows].unsqueeze(1))
        row, column = chosen.nonzero().unbind(1)
        nodes = Nodes.of_tree(tree, torch.arange(len(tree)).expand(len(rows), -1))
        columns = {name: getattr(nodes, name) for name in Nodes.__slots__}
        columns |= {"tested": outcome.tested, "accepted": outcome.accepted}
        part = {name: each[row, column] for name, each in columns.items() if each is not None}
        parts.append({"rows": rows[row], **part})
    if not parts:
        raise ValueError(f"shape must draft something somewhere, got {shape}")
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Examples(joined.pop("rows"), joined)
