"""A trace as training data: the right rows, of the prompts for tuning alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaeagle.identity import ModelIdentity
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_folder, toy_trace
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from predictors.base import Predictor
from predictors.data import trace_dataset as trace_data
from predictors.data.trace_dataset import read_examples, split_texts

MODELS = ModelIdentity("toy", "0123", "head", "4567", 6, VOCAB_SIZE, "float32")


def make_texts(num: int) -> list[RecordedText]:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(9, 20, (num,), generator=generator).tolist()
    lengths = [torch.randint(0, 5, (size,), generator=generator).tolist() for size in sizes]
    features = [torch.randn(size, 6, generator=generator) for size in sizes]
    return toy_trace(lengths, k_max=4, features=features)


@pytest.fixture
def predictor(random_predictor: Callable[..., Predictor]) -> Predictor:
    return random_predictor("ldlp(k_max=4)", MODELS)


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_batches_hold_what_the_positions_hold(
    at_once: int, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many texts are read together."""
    monkeypatch.setattr(trace_data, "TEXTS_AT_ONCE", at_once)
    texts = make_texts(7)
    examples = read_examples(texts, VOCAB_SIZE, predictor, None)
    trace = Trace(texts, VOCAB_SIZE)
    whole = predictor.examples(trace, None)
    indices = [len(examples) - 1, 0, 5, 5, 20]
    batch = examples.__getitems__(indices)
    context = trace.positions.context(whole.rows[indices], 0)
    assert context.features is not None
    assert torch.equal(batch["features"], context.features)
    assert torch.equal(batch["last_token_ids"], context.last_token_ids)
    assert torch.equal(batch["token_ids"], context.token_ids)
    assert torch.equal(batch["length"], whole.columns["length"][indices])
    assert len(examples) == len(whole)


def test_features_of_half_precision_are_read_as_float32(predictor: Predictor) -> None:
    texts = [replace(text, features=text.features.bfloat16()) for text in make_texts(2)]
    batch = read_examples(texts, VOCAB_SIZE, predictor, None).whole()
    assert batch["features"].dtype == torch.float32


def test_features_are_left_where_nobody_reads_them(
    random_predictor: Callable[..., Predictor],
) -> None:
    disco = random_predictor("disco(shape='chain(length=4)')", MODELS)
    assert "features" not in read_examples(make_texts(2), VOCAB_SIZE, disco, None).whole()


def test_validation_is_of_other_prompts_and_none_of_the_test(tmp_path: Path) -> None:
    texts = make_texts(12)
    splits = ["tune" if number % 3 else "test" for number in range(12)]
    folder = toy_folder(tmp_path, texts, splits)  # type: ignore[arg-type]
    training, validation = split_texts(folder, 0.25)
    ids = [{text.prompt_id for text in part} for part in (training, validation)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {str(number) for number in range(12) if number % 3}
    assert len(ids[1]) == 2
    again = split_texts(folder, 0.25)
    assert [t.prompt_id for t in again[1]] == [t.prompt_id for t in validation]


def test_the_test_split_is_not_opened(tmp_path: Path) -> None:
    texts = make_texts(4)
    toy_folder(tmp_path, texts, ["tune", "test", "tune", "tune"])
    for name in ("texts", "tokens", "nodes"):
        (tmp_path / name / "00001.parquet").write_bytes(b"nobody reads this")
    split_texts(TraceFolder.open(tmp_path), 0.5)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_both_parts_have_a_prompt(share: float, tmp_path: Path) -> None:
    training, validation = split_texts(toy_folder(tmp_path, make_texts(3)), share)
    assert {len(training), len(validation)} == {1, 2}


def test_nan_features(predictor: Predictor) -> None:
    texts = make_texts(3)
    features = texts[1].features.clone()
    features[6, 2] = torch.nan
    texts[1] = replace(texts[1], features=features)
    examples = read_examples(texts, VOCAB_SIZE, predictor, None)
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity in prompt '1', turn"):
        examples.whole()


def test_traces_that_teach_nothing(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 prompts for tuning, got 1"):
        split_texts(toy_folder(tmp_path / "one", make_texts(1)), 0.5)
    with pytest.raises(ValueError, match="at least 2 prompts for tuning, got 0"):
        split_texts(toy_folder(tmp_path / "test", make_texts(2), ["test", "test"]), 0.5)
    folder = toy_folder(tmp_path / "half", make_texts(3))
    (tmp_path / "half" / "shards" / "00001.json").unlink()
    with pytest.raises(ValueError, match=r"the trace must be complete, .* lacks 1 shards"):
        split_texts(folder, 0.5)
    assert sum(map(len, split_texts(folder, 0.5, partial=True))) == 2
    short = toy_trace([[0], [1]], k_max=4, features=[torch.zeros(1, 6)] * 2)
    with pytest.raises(ValueError, match="texts must hold examples for ldlp, got none in 2 texts"):
        read_examples(short, VOCAB_SIZE, predictor, None)
