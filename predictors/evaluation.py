"""What trained predictors say of a trace's positions, beside what became of them."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.trace.text import RecordedText
from predictors.base import AcceptancePredictions, LengthPredictions, Predictions, Predictor
from predictors.data.trace_dataset import read_examples

BATCH = 4096


@torch.no_grad()
def evaluate(
    predictor: Predictor,
    texts: Sequence[RecordedText],
    vocab_size: int,
    cost: CostModel | None = None,
) -> Predictions:
    """A predictor on everything that texts have to tell.

    Args:
        predictor: trained.
        texts: of a trace that holds the drafts it judges; each has a position.
        vocab_size: of the target.
        cost: where the predictor's labels need one.

    Returns:
        predictions whose `examples` are the numbers of texts.

    Raises:
        ValueError: it makes no predictions, or the trace lacks what it judges.
    """
    examples = read_examples(texts, vocab_size, predictor, cost)
    found: list[tuple[Predictions, Tensor]] = []
    for start in range(0, len(examples), BATCH):
        chosen = range(start, min(start + BATCH, len(examples)))
        numbers = examples.text_numbers[chosen.start : chosen.stop]
        found.append((predictor.predictions(examples.__getitems__(chosen)), numbers))
    return Predictions(
        _joined(AcceptancePredictions, [(each.acceptance, numbers) for each, numbers in found]),
        _joined(LengthPredictions, [(each.lengths, numbers) for each, numbers in found]),
    )


P = TypeVar("P", AcceptancePredictions, LengthPredictions)


def _joined(kind: type[P], parts: Sequence[tuple[P | None, Tensor]]) -> P | None:
    """Predictions of all batches, each with the number of its text."""
    known = [(part, numbers) for part, numbers in parts if part is not None]
    if not known:
        return None
    columns = {
        field.name: torch.cat([getattr(part, field.name) for part, _ in known])
        for field in fields(kind)
    }
    columns["examples"] = torch.cat([numbers[part.examples] for part, numbers in known])
    return kind(**columns)
