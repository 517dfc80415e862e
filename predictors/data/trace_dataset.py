"""A trace as training data: examples with the context of their positions, split by prompt.

Training and validation prompts both lie inside the split for tuning; the test's shards are not even
opened, unless all of a trace is declared to be for training. Features stay in the trace's files,
which are mapped: a batch reads the rows it needs.

Shapes: T texts, Q positions of all texts, M examples, B of them in a batch, D feature size.
"""

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor
from torch.utils.data import Dataset

from adaeagle.cost.model import CostModel
from adaeagle.data.splits import TUNE, Split
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from predictors.base import Batch, Examples, Predictor

TEXTS_AT_ONCE = 64
"""Texts whose drafts are read together: bounds memory."""


class TraceExamples(Dataset[Batch]):
    """Examples of recorded texts; a batch at a time is asked for by a list of indices.

    Args:
        texts: whose positions the examples' rows are, numbered through; each has some.
        examples: at least one.
        with_features: put the target's features into batches.
    """

    def __init__(
        self, texts: Sequence[RecordedText], examples: Examples, with_features: bool
    ) -> None:
        counts = torch.tensor([text.num_positions for text in texts], dtype=torch.int64)
        self._starts = counts.cumsum(0) - counts
        self._text_of = torch.repeat_interleave(torch.arange(len(texts)), counts)
        self._texts = texts
        self._examples = examples
        self._with_features = with_features
        self._last_ids = torch.cat(
            [torch.cat((text.prompt_ids[-1:], text.token_ids[:-2])) for text in texts]
        )
        self._pending_ids = torch.cat([text.token_ids[:-1] for text in texts])

    def __len__(self) -> int:
        return len(self._examples)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        rows = self._examples.rows[chosen]
        batch = {name: each[chosen] for name, each in self._examples.columns.items()}
        batch["last_token_ids"] = self._last_ids[rows]
        batch["token_ids"] = self._pending_ids[rows]
        if self._with_features:
            batch["features"] = self._features(rows)
        return batch

    @property
    def text_numbers(self) -> Tensor:
        """[M] int64, of the text that each example belongs to."""
        return self._text_of[self._examples.rows]

    def whole(self) -> Batch:
        """All examples as one batch."""
        return self.__getitems__(range(len(self)))

    def _features(self, rows: Tensor) -> Tensor:
        """[B, D] float32.

        Raises:
            ValueError: some are not finite.
        """
        found = torch.empty(len(rows), self._texts[0].features.shape[1])
        numbers = self._text_of[rows]
        for number in torch.unique(numbers).tolist():
            text, own = self._texts[number], numbers == number
            # A position's feature is that of the token before the pending one.
            places = rows[own] - self._starts[number] + len(text.prompt_ids) - 1
            found[own] = text.features[places].float()
            if not found[own].isfinite().all():
                raise ValueError(
                    f"features must be finite, got NaN or infinity in prompt {text.prompt_id!r}, "
                    f"turn {text.turn}"
                )
        return found


def read_examples(
    texts: Sequence[RecordedText], vocab_size: int, predictor: Predictor, cost: CostModel | None
) -> TraceExamples:
    """Everything that texts have to teach a predictor.

    Raises:
        ValueError: nothing at all, or the trace lacks what is needed.
    """
    parts, first = [], 0
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        trace = Trace(texts[start : start + TEXTS_AT_ONCE], vocab_size)
        found = predictor.examples(trace, cost)
        parts.append(Examples(found.rows + first, found.columns))
        first += len(trace.positions)
    parts = [part for part in parts if len(part) > 0]
    if not parts:
        raise ValueError(
            f"texts must hold examples for {predictor.kind}, got none in {len(texts)} texts"
        )
    names = parts[0].columns
    columns = {name: torch.cat([part.columns[name] for part in parts]) for name in names}
    joined = Examples(torch.cat([part.rows for part in parts]), columns)
    return TraceExamples(texts, joined, predictor.needs_features)


def split_texts(
    folder: TraceFolder,
    validation_share: float,
    split: Split | None = TUNE,
    *,
    partial: bool = False,
) -> tuple[list[RecordedText], list[RecordedText]]:
    """Texts for training and for validation: of the prompts for tuning alone.

    A share of them, chosen by the hash of their ids, is for validation.

    Args:
        folder: a trace.
        validation_share: in (0, 1).
        split: None: all prompts, of a trace that nothing is ever tested on.
        partial: take what there is of a trace that is not complete.

    Raises:
        ValueError: the trace is not complete, there are fewer than two prompts, or the share is out
            of its range.
    """
    if not 0 < validation_share < 1:
        raise ValueError(f"validation_share must be in (0, 1), got {validation_share}")
    if not (folder.complete or partial):
        raise ValueError(
            f"the trace must be complete, {folder.path} lacks {len(folder.missing)} shards"
        )
    texts = [text for text in folder.texts(split=split) if text.num_positions > 0]
    ranked = sorted({text.prompt_id for text in texts}, key=_hash)
    if len(ranked) < 2:
        raise ValueError(
            f"the trace must hold texts of at least 2 prompts for tuning, got {len(ranked)}"
        )
    num_validation = min(max(1, round(validation_share * len(ranked))), len(ranked) - 1)
    held = set(ranked[:num_validation])
    return (
        [text for text in texts if text.prompt_id not in held],
        [text for text in texts if text.prompt_id in held],
    )


def _hash(prompt_id: str) -> bytes:
    # Not the hash that divides tuning from test: of that one, only low values are left.
    return sha256(f"validation {prompt_id}".encode()).digest()
