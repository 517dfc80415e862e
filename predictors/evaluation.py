"""What trained predictors say of a trace's positions, beside what became of them.

Shapes: M statements, B examples of a batch, K longest chain.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.cost.model import CostModel
from adaeagle.trace.text import RecordedText
from predictors.acceptance.base import AcceptancePredictor
from predictors.acceptance.c2t import C2T
from predictors.base import Batch, Predictor
from predictors.data.nodes import Nodes
from predictors.data.trace_dataset import TraceExamples, read_examples
from predictors.hazard.network import Hazard
from predictors.length.ldlp import LengthPredictor

BATCH = 4096


@dataclass(frozen=True, slots=True)
class Odds:
    """Drafted tokens that a verification judges, or nodes of trees that it might."""

    probs: Tensor  # [M] float32, the predictor's
    confidences: Tensor  # [M] float32, the draft's own, of the token or of its path
    accepted: Tensor  # [M] bool
    depths: Tensor  # [M] int64
    texts: Tensor  # [M] int64, the number of the text each belongs to


@dataclass(frozen=True, slots=True)
class Lengths:
    """Chains' lengths, told before drafting."""

    told: Tensor  # [M] float32, not rounded
    true: Tensor  # [M] int64: the labels that it was trained on
    texts: Tensor  # [M] int64


@dataclass(frozen=True, slots=True)
class Judged:
    """What a predictor said; some kinds say one, some the other, some both."""

    odds: Odds | None
    lengths: Lengths | None


@torch.no_grad()
def judge(
    predictor: Predictor,
    texts: Sequence[RecordedText],
    vocab_size: int,
    cost: CostModel | None = None,
) -> Judged:
    """Asks a predictor about everything that texts have to tell.

    Args:
        predictor: trained.
        texts: of a trace that holds the drafts it judges; each has a position.
        vocab_size: of the target.
        cost: where the predictor's labels need one.

    Raises:
        ValueError: it says neither odds nor lengths, or the trace lacks what it judges.
    """
    examples = read_examples(texts, vocab_size, predictor, cost)
    odds: list[Odds] = []
    lengths: list[Lengths] = []
    for batch, numbers in _batches(examples):
        match predictor:
            case LengthPredictor():
                told = predictor.lengths(batch).clamp(0, predictor.k_max)
                lengths.append(Lengths(told, batch["length"], numbers))
            case AcceptancePredictor():
                probs = predictor.batch_log_odds(batch).sigmoid()
                odds.append(_of_nodes(batch, probs, batch["log_probs"], numbers))
            case C2T():
                probs = predictor.log_odds(Nodes.of_batch(batch)).sigmoid()
                odds.append(_of_nodes(batch, probs, batch["path_log_probs"], numbers))
            case Hazard():
                odds.append(_of_drafted(predictor, batch, numbers))
                lengths.append(_expected(predictor, batch, numbers))
            case _:
                raise ValueError(f"predictor must tell odds or lengths, got {predictor.kind}")
    return Judged(_joined(Odds, odds), _joined(Lengths, lengths))


def _batches(examples: TraceExamples) -> Iterator[tuple[Batch, Tensor]]:
    """Batches, and the number of the text of each example."""
    for start in range(0, len(examples), BATCH):
        chosen = range(start, min(start + BATCH, len(examples)))
        yield examples.__getitems__(chosen), examples.text_numbers[chosen.start : chosen.stop]


def _of_nodes(batch: Batch, probs: Tensor, log_confidences: Tensor, numbers: Tensor) -> Odds:
    accepted, depths = batch["accepted"], batch["depths"].long()
    return Odds(probs, log_confidences.exp(), accepted, depths, numbers)


def _of_drafted(predictor: Hazard, batch: Batch, numbers: Tensor) -> Odds:
    """Of each drafted token of a chain, as soon as it is drafted."""
    labels, is_known = (each[:, 1:, 0] for each in predictor.labels(batch))  # [B, K]
    row, place = is_known.nonzero().unbind(1)
    return Odds(
        predictor(batch)[:, 1:, 0].sigmoid()[row, place],
        batch["log_probs"].exp()[row, place],
        labels[row, place] > 0.5,
        place + 1,
        numbers[row],
    )


def _expected(predictor: Hazard, batch: Batch, numbers: Tensor) -> Lengths:
    """What is expected before anything is drafted; beyond the horizon it goes on as at its end."""
    is_whole = batch["num_known"] == predictor.k_max
    ahead = predictor(batch)[is_whole, 0, 1:].sigmoid()
    ahead = F.pad(ahead, (0, max(0, predictor.k_max - ahead.shape[1])), value=-1.0)
    last = ahead[:, predictor.horizon - 1 : predictor.horizon]
    ahead = torch.where(ahead < 0, last, ahead)[:, : predictor.k_max]
    told = ahead.cumprod(1).sum(1)
    return Lengths(told, batch["accepted"][is_whole].sum(1), numbers[is_whole])


S = TypeVar("S", Odds, Lengths)


def _joined(kind: type[S], parts: list[S]) -> S | None:
    if not parts:
        return None
    return kind(*(torch.cat([getattr(part, name) for part in parts]) for name in kind.__slots__))
