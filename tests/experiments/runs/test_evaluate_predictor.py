"""Judging predictors: the numbers by hand and by scikit-learn, and the command from end to end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss

from adaeagle import EagleDrafter, Target
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt
from adaeagle.data.splits import TEST, TUNE
from adaeagle.drafters.identify import identify
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_folder, toy_trace
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.trace import Trace
from experiments.cli import main
from experiments.runs.evaluate_predictor import auc, bins, comparisons, errors, policies_of, scores
from experiments.runs.train_predictor import TrainPredictorSettings, train_predictor
from predictors.base import (
    AcceptancePredictions,
    LengthPredictions,
    Predictions,
    Predictor,
    load_predictor,
)
from predictors.data.chains import read_chains
from predictors.evaluation import evaluate

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs

K_MAX = 6
COST = CostModel.linear(constant=0.05, draft=0.15, verify=1.0, node=0.01)
KINDS = {
    "ldlp(k_max=4, labels='dp')": ("lengths",),
    "logistic(shape='chain(length=4)')": ("acceptance",),
    "c2t(shape='eagle2(depth=2, width=3, nodes=6)')": ("acceptance",),
    "hazard(k_max=4, horizon=3)": ("acceptance", "lengths"),
}
LENGTHS, TOKENS = (
    "ldlp(k_max=6, use_embedding=False)",
    "specdec_pp(shape='chain(length=6)', hidden_size=16)",
)


def test_scores_by_hand() -> None:
    """Two bins: .8 told and 1 accepted of 1, .2 told and 1 accepted of 3."""
    probs = np.array([0.8, 0.2, 0.2, 0.2])
    accepted = np.array([True, True, False, False])
    found = scores(probs, accepted)
    assert found["num"] == 4
    assert found["brier"] == pytest.approx((0.04 + 0.64 + 0.04 + 0.04) / 4)
    assert found["brier"] == pytest.approx(brier_score_loss(accepted, probs))
    assert found["ece"] == pytest.approx((0.2 + 3 * (1 / 3 - 0.2)) / 4)
    # Of four pairs of an accepted and a rejected token, two are in order and two are ties.
    assert found["auc"] == pytest.approx(0.75)
    assert [(b["low"], b["num"], b["accepted"]) for b in bins(probs, accepted)] == [
        (0.2, 3, pytest.approx(1 / 3)),
        (0.8, 1, 1.0),
    ]
    assert bins(np.array([1.0]), np.array([True]))[0]["low"] == 0.95


def test_errors_by_hand() -> None:
    found = errors(np.array([1.0, 2.0, 6.0]), np.array([1, 4, 4]))
    assert (found["true"], found["told"]) == (3.0, 3.0)
    assert found["error"] == pytest.approx(4 / 3)
    assert found["constant_error"] == 1.0  # of always saying 4
    assert errors(np.array([2.0, 2.0]), np.array([1, 3]))["correlation"] is None


def test_one_class_has_no_curve() -> None:
    assert auc(np.array([0.3, 0.4]), np.array([True, True])) is None


def test_tasks_are_told_apart() -> None:
    acceptances = AcceptancePredictions(
        probs=torch.tensor([0.9, 0.9, 0.1]),
        confidences=torch.tensor([0.5, 0.5, 0.5]),
        accepted=torch.tensor([True, True, False]),
        depths=torch.tensor([1, 2, 1]),
        examples=torch.tensor([0, 2, 1]),
    )
    lengths = LengthPredictions(
        torch.tensor([4.0, 1.0]), torch.tensor([4, 0]), torch.tensor([0, 1])
    )
    found = comparisons(Predictions(acceptances, lengths), ["a", "b", "a", "c"])
    acceptance = found["acceptance"]
    assert acceptance["auc"] == 1.0
    assert acceptance["draft_confidence"]["auc"] == 0.5
    assert [(row["task"], row["num"]) for row in acceptance["by_task"]] == [("a", 2), ("b", 1)]
    assert [(row["depth"], row["num"]) for row in acceptance["by_depth"]] == [(1, 2), (2, 1)]
    assert [(row["task"], row["error"]) for row in found["lengths"]["by_task"]] == [
        ("a", 0.0),
        ("b", 1.0),
    ]
    assert found["lengths"]["auc_at_least"] == {"1": 1.0, "4": 1.0, "8": None, "12": None}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six made-up texts for tuning and three for the test, whose features tell their lengths."""
    path = tmp_path_factory.mktemp("trace")
    generator = torch.Generator().manual_seed(0)
    lengths = [torch.randint(0, K_MAX + 1, (50,), generator=generator).tolist() for _ in range(9)]
    features = [torch.tensor(own).float().unsqueeze(1) * torch.ones(1, 4) for own in lengths]
    distributions = [
        torch.rand(50, K_MAX, generator=generator).clamp(0.05, 0.95).log() for _ in lengths
    ]
    texts = toy_trace(lengths, k_max=K_MAX, features=features, log_probs=distributions)
    toy_folder(path, texts, [TUNE] * 6 + [TEST] * 3)
    COST.save(path / "cost.json")
    return path


Train = Callable[..., tuple[Path, Predictor]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """A predictor, briefly trained: (kind, trace, steps)."""
    known: dict[str, Path] = {}

    def train(kind: str, trace: Path, max_steps: int = 10) -> tuple[Path, Predictor]:
        if kind not in known:
            out = tmp_path_factory.mktemp("predictor")
            train_predictor(
                TrainPredictorSettings(
                    kind,
                    trace,
                    out,
                    max_steps=max_steps,
                    learning_rate=0.01,
                    checkpoint_every=60,
                    accelerator="cpu",
                    devices=1,
                )
            )
            known[kind] = out
        return known[kind], load_predictor(known[kind])

    return train


def test_lengths_are_judged_by_their_labels(trace: Path, trained: Train) -> None:
    """What the feature tells is told right, and only where the text is long enough to know."""
    _, predictor = trained(LENGTHS, trace, 120)
    texts = TraceFolder.open(trace).texts(split="test")
    lengths = evaluate(predictor, texts, VOCAB_SIZE).lengths
    assert lengths is not None
    assert set(lengths.examples.tolist()) == {0, 1, 2}
    assert len(lengths.true) < sum(text.num_positions for text in texts)
    found = errors(lengths.predicted.numpy(), lengths.true.numpy())
    assert found["error"] < 0.8 < found["constant_error"]
    assert found["correlation"] > 0.9


def test_tokens_are_judged_where_verification_would(trace: Path, trained: Train) -> None:
    """As many drafted tokens as are accepted, and the rejected one after them."""
    texts = TraceFolder.open(trace).texts(split="test")
    chains = read_chains(Trace(texts, VOCAB_SIZE), K_MAX)
    odds = evaluate(trained(TOKENS, trace, 120)[1], texts, VOCAB_SIZE).acceptance
    assert odds is not None
    assert len(odds.probs) == int(chains.tested.sum())
    assert int(odds.accepted.sum()) == int((chains.tested & chains.accepted).sum())
    for depth in (1, K_MAX):
        assert int((odds.depths == depth).sum()) == int(chains.tested[:, depth - 1].sum())
    area = auc(odds.probs.numpy(), odds.accepted.numpy())
    assert area is not None
    assert area > 0.7


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, folders: Any, make_pair: Any, make_prompt: Any
) -> Path:
    """A trace of tiny models that can be loaded, two prompts of each split."""
    path = tmp_path_factory.mktemp("real")
    target = Target.from_pretrained(str(folders.target))
    drafter = EagleDrafter.from_pretrained(str(folders.head), target)
    recorder = Recorder(target, drafter, ("chain(length=4)", "eagle2(depth=2, width=3)"), 30)
    prompts = [Prompt(f"p{seed}", token_ids=tuple(make_prompt(9, seed))) for seed in range(5)]
    texts = [text for prompt in prompts for text in recorder.record(prompt)]
    models = identify(target, drafter)
    toy_folder(
        path,
        texts,
        [TUNE] * 3 + [TEST] * 2,
        target=str(folders.target),
        drafter=str(folders.head),
        target_weights=models.target_weights,
        drafter_weights=models.drafter_weights,
        vocab_size=models.vocab_size,
    )
    COST.save(path / "cost.json")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_command(
    kind: str,
    real: Path,
    trained: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, predictor = trained(kind, real)
    specs = policies_of(predictor, str(source), real / "cost.json")
    out = tmp_path / "out"
    arguments = ["evaluate-predictor", str(source), "--trace", str(real), "--out", str(out)]
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    last, whole = json.loads(line), json.loads((out / "results.json").read_text())
    told: tuple[str, ...] = KINDS[kind]
    for name, picture in (("acceptance", "acceptance.png"), ("lengths", "lengths.png")):
        assert (whole[name] is not None) == (name in told)
        assert (last[name] is not None) == (name in told)
        assert (out / picture).is_file() == (name in told)
        assert whole[name] is None or len(whole[name]["by_task"]) == 1
    assert [arm["policy"] for arm in last["arms"]] == ["vanilla", *specs]
    assert all(arm["policy_seconds"] > 0 for arm in whole["replay"]["arms"][1:])
    assert all(arm["headroom_recovered"] is not None for arm in last["arms"])
    assert (out / "replay" / "results.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{none}", "--trace", "{trace}"), "PREDICTOR"),
        (("{predictor}", "--trace", "{none}"), "TRACE"),
        (("{predictor}", "--trace", "{trace}", "--split", "half"), "--split must be one of"),
        (("mini/ldlp", "--trace", "{trace}"), "target of predictor ldlp must be the one"),
        (("{predictor}", "--trace", "{trace}", "--policies", "chain("), "--policies"),
    ],
)
def test_wrong_input(
    arguments: tuple[str, ...],
    message: str,
    trace: Path,
    trained: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, _ = trained(LENGTHS, trace, 120)
    places: dict[str, Any] = {"none": tmp_path / "no", "trace": trace, "predictor": source}
    given = [argument.format(**places) for argument in arguments]
    assert main(["evaluate-predictor", *given, "--out", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("adaeagle: ")
    assert message in line
