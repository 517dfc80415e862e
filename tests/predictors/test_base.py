"""Predictors of every kind: saved and loaded whole, and refused where they do not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.identity import ModelIdentity
from adaeagle.registry import PREDICTORS
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_trace
from adaeagle.trace.text import RecordedText
from predictors.acceptance.base import AcceptancePredictor, NodePredictor
from predictors.acceptance.c2t import C2TPredictor
from predictors.base import (
    Batch,
    FittedPredictor,
    Predictor,
    TrainedPredictor,
    load_as,
    load_predictor,
)
from predictors.data.trace_dataset import TraceExamples, read_examples
from predictors.length.ldlp import LengthPredictor
from predictors.token_table import TokenTable

MODELS = ModelIdentity("toy", "0123", "head", "4567", 6, VOCAB_SIZE, "float32")
COST = CostModel.linear(constant=0.1, draft=0.2, verify=1.0)
CHAIN = "shape='chain(length=8)'"
KINDS = [
    "ldlp(k_max=8, use_pending=True)",
    "ldlp(k_max=8, labels='dp', use_embedding=False, penalty=1.5)",
    "ldlp_class(k_max=8)",
    f"specdec_pp({CHAIN})",
    f"specdec_pp({CHAIN}, use_feature=False)",
    f"disco({CHAIN})",
    f"c2t({CHAIN})",
    f"logistic({CHAIN})",
    f"boosting({CHAIN}, num_trees=7, max_depth=3)",
    f"isotonic({CHAIN})",
]
ELSEWHERE = {"hazard"}
"""Tested in files of their own."""

Random = Callable[..., Predictor]


def toy_texts(seed: int = 0) -> list[RecordedText]:
    """Acceptance goes with the feature and, less so, with the draft's own confidence."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(50, 6, generator=generator) for _ in range(4)]
    lengths = [(2 * each[:, 0] + 3).round().clamp(0, 8).long().tolist() for each in features]
    distributions = [
        (
            torch.rand(50, 8, generator=generator)
            * (torch.arange(8) < torch.tensor(own).unsqueeze(1))
        )
        .clamp(0.02, 0.98)
        .log()
        for own in lengths
    ]
    return toy_trace(lengths, features=features, log_probs=distributions)


def made(spec: str, random_predictor: Random) -> tuple[Predictor, TraceExamples]:
    """A predictor that has learned something, and what it learned from."""
    predictor = random_predictor(spec, MODELS)
    examples = read_examples(toy_texts(), VOCAB_SIZE, predictor, COST)
    learn(predictor, examples.whole())
    return predictor, examples


def learn(predictor: Predictor, batch: Batch) -> None:
    """Fits a predictor, or does what comes before training."""
    if isinstance(predictor, FittedPredictor):
        predictor.fit(batch, 0)
    else:
        assert isinstance(predictor, TrainedPredictor)
        predictor.measure(batch)


@torch.no_grad()
def answers(predictor: Predictor, batch: Batch) -> Tensor:
    if isinstance(predictor, LengthPredictor):
        return predictor.lengths(batch)
    assert isinstance(predictor, NodePredictor)
    return predictor.batch_log_odds(batch)


def test_no_kind_is_left_out() -> None:
    ours = {e.name for e in entry_points(group=PREDICTORS) if e.value.startswith("predictors.")}
    assert ours == {spec.partition("(")[0] for spec in KINDS} | ELSEWHERE


@pytest.mark.parametrize("spec", KINDS)
def test_what_is_loaded_is_what_was_saved(
    spec: str, random_predictor: Random, tmp_path: Path
) -> None:
    predictor, examples = made(spec, random_predictor)
    predictor.save(tmp_path / "it")
    assert sorted(path.name for path in (tmp_path / "it").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    again = load_predictor(tmp_path / "it")
    assert type(again) is type(predictor)
    assert again.settings == predictor.settings
    assert again.metadata == predictor.metadata
    assert not again.training
    assert not any(weight.requires_grad for weight in again.parameters())
    expected = answers(predictor, examples.whole())
    assert expected.std() > 0
    torch.testing.assert_close(
        answers(again, examples.whole()), expected, atol=1e-5, rtol=1e-5, check_device=False
    )
    again.save(tmp_path / "copy")  # what was loaded can be saved
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("it", "copy"))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


@pytest.mark.parametrize("spec", [kind for kind in KINDS if "ldlp" in kind or "specdec" in kind])
def test_the_scale_of_features_does_not_matter(spec: str, random_predictor: Random) -> None:
    """Models differ in it. Every weight that is trained gets a gradient."""
    losses = []
    for scale, shift in ((1, 0), (1000, 500)):
        predictor = random_predictor(spec, MODELS)
        assert isinstance(predictor, TrainedPredictor)
        texts = [replace(text, features=scale * text.features + shift) for text in toy_texts()]
        batch = read_examples(texts, VOCAB_SIZE, predictor, COST).whole()
        predictor.measure(batch)
        losses.append(predictor.loss(batch))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
    losses[1].backward()  # type: ignore[no-untyped-call]
    for name, weight in predictor.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().sum() > 0, name


def test_a_table_holds_the_layer_s_outcomes() -> None:
    embedding = torch.randn(20, 5)
    trained = TokenTable(20, 3, embedding)
    loaded = TokenTable(20, 3, None)
    loaded.load_state_dict({"table": trained.to_table()})
    ids = torch.tensor([3, 19, 0, 3])
    torch.testing.assert_close(loaded(ids), trained(ids))
    assert set(trained.state_dict()) == {"layer.weight"}  # the target's weights are not ours
    with pytest.raises(ValueError, match=r"embedding must have a row for each of 21 tokens"):
        TokenTable(21, 3, embedding)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"target_weights": "ff", "target": "big"},
            r"target .* toy \(weights 0123\), got big .*ff",
        ),
        ({"drafter_weights": ""}, r"drafter .* head \(weights 4567\), got head \(weights unknown"),
        ({"feature_size": 8}, "features of predictor disco must be of size 6, got 8"),
    ],
)
def test_other_models_are_refused(
    part: dict[str, object], message: str, random_predictor: Random
) -> None:
    predictor = random_predictor("disco", MODELS)
    predictor.check(replace(MODELS, dtype="bfloat16"))  # the same models in another precision
    with pytest.raises(ValueError, match=message) as refused:
        predictor.check(replace(MODELS, **part))  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


@pytest.fixture
def folder(random_predictor: Random, tmp_path: Path) -> Path:
    random_predictor("disco", MODELS).save(tmp_path)
    return tmp_path


def test_folders_that_hold_no_predictor(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"predictor must be .* nowhere has no config.json"):
        load_predictor("nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_predictor(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format must be 1, got 9"),
        ({"kind": "dsico"}, "unknown name 'dsico' .* did you mean 'disco'"),
        ({"settings": {"hidden": 3}}, "hidden"),
        ({"settings": {"shape": "chain", "hidden_size": 3}}, "size mismatch"),
        ({"about": {}}, "models"),
    ],
)
def test_damaged_predictors(folder: Path, change: dict[str, object], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=f"(?s)predictor .* cannot be read: .*{message}"):
        load_predictor(folder)


def test_damaged_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["network.0.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"must be finite, got NaN in network\.0\.bias"):
        load_predictor(folder)
    (folder / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="cannot be read"):
        load_predictor(folder)


def test_a_predictor_of_another_kind(folder: Path) -> None:
    assert load_as(AcceptancePredictor, folder).kind == "disco"  # type: ignore[type-abstract]
    with pytest.raises(ValueError, match="predictor must be a C2TPredictor, got disco"):
        load_as(C2TPredictor, folder)


@pytest.mark.parametrize("spec", [kind for kind in KINDS if "labels" not in kind])
@pytest.mark.parametrize("length", [0, 8])
def test_labels_of_one_class(spec: str, length: int, random_predictor: Random) -> None:
    predictor = random_predictor(spec, MODELS)
    texts = toy_trace([[length] * 30] * 2, features=[torch.randn(30, 6)] * 2)
    batch = read_examples(texts, VOCAB_SIZE, predictor, None).whole()
    with pytest.raises(ValueError, match=r"must be of both classes, got|lengths must differ, got"):
        learn(predictor, batch)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ldlp(k_max=0)", "k_max must be >= 1, got 0"),
        ("ldlp(labels='best')", "labels must be 'paper' or 'dp', got 'best'"),
        ("ldlp(penalty=0)", "penalty must be > 0, got 0"),
        ("ldlp(dropout=1.0)", r"dropout must be in \[0, 1\), got 1.0"),
        ("specdec_pp(rejected_weight=0)", "rejected_weight must be > 0, got 0"),
        ("disco(hidden_size=0)", "hidden_size must be >= 1, got 0"),
        ("ldlp(num_blocks=-1)", "num_blocks must be >= 0, got -1"),
        ("specdec_pp(num_blocks=-1)", "num_blocks must be >= 0, got -1"),
        ("c2t(hidden_size=0)", "hidden_size must be >= 1, got 0"),
        ("logistic(strength=0)", "strength must be > 0, got 0"),
        ("boosting(max_depth=0)", "max_depth must be >= 1, got 0"),
    ],
)
def test_settings_out_of_range(spec: str, message: str, random_predictor: Random) -> None:
    with pytest.raises(ValueError, match=message):
        random_predictor(spec, MODELS)
