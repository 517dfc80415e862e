"""`train_predictor` from a trace to a policy that drafts by what it learned."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from adaeagle import Target, generate
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.causal_lm import ModelDrafter
from adaeagle.drafters.identify import identify
from adaeagle.policy import Policy
from adaeagle.registry import get_policy
from adaeagle.replay.oracle import choices, dp
from adaeagle.replay.replay import replay
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_folder, toy_trace
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from experiments.runs.train_predictor import TrainPredictorSettings, train_predictor
from predictors.base import TrainedPredictor, load_predictor
from predictors.data.trace_dataset import read_examples
from predictors.training.constant import constant_loss
from predictors.training.predictor import PredictorTraining

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs

K_MAX = 8
COST = CostModel.linear(constant=0.05, draft=0.15, verify=1.0, node=0.01)

# What two processes run: the launcher starts the script again, so it is a file.
SCRIPT = """
import sys
from pathlib import Path
from experiments.runs.train_predictor import TrainPredictorSettings, train_predictor
trace, out, devices = sys.argv[1:]
train_predictor(TrainPredictorSettings(
    "ldlp(k_max=8, use_embedding=False, dropout=0.0)", Path(trace), Path(out), max_steps=8,
    batch_size=32 // int(devices), checkpoint_every=4, accelerator="cpu", devices=int(devices),
    strategy="ddp",
))
"""


def texts_of(seed: int, num_texts: int, has_signal: bool = True) -> list[RecordedText]:
    """Texts whose best lengths are a function of the feature, or of nothing that is told.

    A length holds for the whole stretch that it accepts, as it does in texts that a draft model
    knows by heart for a while.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths, features = [], []
    for _ in range(num_texts):
        own: list[int] = []
        while len(own) < 100:
            first = int(torch.randint(0, K_MAX + 1, (1,), generator=generator))
            own += range(first, -1, -1)
        noise = torch.randn(len(own), 6, generator=generator)
        if has_signal:
            noise[:, 2] = torch.tensor(own) / 3.0 - 1.0
        lengths.append(own)
        features.append(noise)
    return toy_trace(lengths, k_max=K_MAX, features=features, seed=seed)


def settings_for(trace: Path, out: Path, **changed: Any) -> TrainPredictorSettings:
    given: dict[str, Any] = {
        "kind": f"ldlp(k_max={K_MAX}, use_embedding=False)",
        "trace": trace,
        "out": out,
        "max_steps": 300,
        "checkpoint_every": 50,
        "learning_rate": 3e-3,
        "accelerator": "cpu",
        "devices": 1,
    }
    return TrainPredictorSettings(**(given | changed))


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace")
    toy_folder(path, texts_of(0, 10))
    COST.save(path / "cost.json")
    return path


def speed(policy: Policy, trace: Trace) -> float:
    """Tokens a second, in a replay."""
    rounds = replay(policy, trace).rounds
    seconds = COST.round_seconds(rounds.shapes(trace.positions)).sum()
    return float(rounds.num_emitted.sum() / seconds)


def best_fixed(trace: Trace) -> float:
    lengths = range(1, K_MAX + 1)
    chains = [get_policy(f"chain(length={length})") for length in lengths]
    return max(speed(policy, trace) for policy in [get_policy("vanilla"), *chains])


def oracle(trace: Trace) -> float:
    lengths = range(1, K_MAX + 1)
    family = [get_policy("vanilla"), *(get_policy(f"chain(length={k})") for k in lengths)]
    plan = dp(choices(family, trace, COST), trace.positions)
    return float(plan.num_emitted.sum() / plan.seconds.sum())


@pytest.mark.parametrize("labels", ["paper", "dp"])
@pytest.mark.parametrize("kind", ["ldlp", "ldlp_class"])
def test_it_learns_a_length_that_the_feature_tells(
    kind: str, labels: str, trace: Path, tmp_path: Path
) -> None:
    spec = f"{kind}(k_max={K_MAX}, use_embedding=False, labels='{labels}')"
    result = train_predictor(settings_for(trace, tmp_path / "it", kind=spec))
    assert json.loads((tmp_path / "it" / "result.json").read_text()) == result
    held = Trace(texts_of(1, 5), VOCAB_SIZE)
    policy = get_policy(f"ldlp(predictor='{tmp_path / 'it'}')")
    found, limit = speed(policy, held), oracle(held)
    assert best_fixed(held) < 0.9 * limit  # there is something to learn
    assert found >= 0.95 * limit


def test_without_a_signal_it_is_as_good_as_the_best_fixed_length(tmp_path: Path) -> None:
    toy_folder(tmp_path / "trace", texts_of(0, 10, has_signal=False))
    COST.save(tmp_path / "trace" / "cost.json")
    spec = f"ldlp(k_max={K_MAX}, use_embedding=False, labels='dp', penalty=1.0)"
    train_predictor(settings_for(tmp_path / "trace", tmp_path / "it", kind=spec))
    held = Trace(texts_of(1, 5, has_signal=False), VOCAB_SIZE)
    offsets = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]  # as a sweep would
    found = max(
        speed(get_policy(f"ldlp(predictor='{tmp_path / 'it'}', offset={offset})"), held)
        for offset in offsets
    )
    assert 0.9 * best_fixed(held) < found < 1.1 * best_fixed(held)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


class Killed(Exception):
    """What a kill looks like from inside."""


def test_a_killed_run_goes_on_to_the_same_weights(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, order and schedule go on too; the best and the last weights are those of one run."""
    settings = settings_for(trace, tmp_path / "whole", max_steps=40, checkpoint_every=10)
    whole = train_predictor(settings)
    killed = replace(settings, out=tmp_path / "killed")
    begin = PredictorTraining.on_train_batch_start

    def kill(self: PredictorTraining, batch: Any, batch_index: int) -> None:
        if self.global_step == 25:
            raise Killed
        begin(self, batch, batch_index)

    with monkeypatch.context() as patched:
        patched.setattr(PredictorTraining, "on_train_batch_start", kill)
        with pytest.raises(Killed):
            train_predictor(killed)
    assert not (killed.out / "model.safetensors").exists()
    steps = []
    end = PredictorTraining.training_step

    def note(self: PredictorTraining, batch: Any, batch_index: int) -> torch.Tensor:
        steps.append(self.global_step)
        return end(self, batch, batch_index)

    monkeypatch.setattr(PredictorTraining, "training_step", note)
    resumed = train_predictor(killed)
    assert steps == list(range(20, 40))
    drop = ("predictor", "seconds")
    assert {k: v for k, v in resumed.items() if k not in drop} == {
        k: v for k, v in whole.items() if k not in drop
    }
    first, second = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_a_finished_run_is_told_again(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(trace, tmp_path / "it", max_steps=4)
    first = train_predictor(settings)
    monkeypatch.setattr(L.Trainer, "fit", None)
    assert train_predictor(settings) == first
    with pytest.raises(ValueError, match=r"out must be a folder without another run, .*batch_size"):
        train_predictor(replace(settings, batch_size=5))


def test_a_finished_run_can_be_lengthened(trace: Path, tmp_path: Path) -> None:
    settings = settings_for(trace, tmp_path / "it", max_steps=4)
    train_predictor(settings)
    assert train_predictor(replace(settings, max_steps=10))["steps"] == 10
    assert load_predictor(tmp_path / "it").metadata.training["settings"]["max_steps"] == 10
    assert (tmp_path / "it" / "learning_curve.png").is_file()


def test_the_best_constant_is_the_entropy_of_the_labels(trace: Path, tmp_path: Path) -> None:
    """Of labels alike in number, ln 2; and no network that learns anything does worse."""
    kind = "disco(shape='chain(length=8)')"
    result = train_predictor(settings_for(trace, tmp_path / "it", kind=kind))
    predictor = load_predictor(tmp_path / "it")
    examples = read_examples(texts_of(3, 2), VOCAB_SIZE, predictor, None)
    assert isinstance(predictor, TrainedPredictor)
    batch = examples.whole()
    predictor.requires_grad_(True)
    before = predictor.loss(batch)
    share = batch["accepted"].float().mean()
    entropy = torch.distributions.Bernoulli(share).entropy()  # type: ignore[no-untyped-call]
    assert constant_loss(predictor, batch) == pytest.approx(float(entropy), abs=1e-4)
    assert torch.equal(predictor.loss(batch), before)
    assert result["val_loss"] < result["constant_loss"] + 0.01


def test_it_stops_early_with_the_best_weights(trace: Path, tmp_path: Path) -> None:
    settings = settings_for(
        trace, tmp_path / "it", max_steps=2000, checkpoint_every=5, patience=2, learning_rate=0.3
    )
    result = train_predictor(settings)
    assert result["steps"] < 2000
    rows = (tmp_path / "it" / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    place = rows[0].split(",").index("val_loss")
    losses = [float(row.split(",")[place]) for row in rows[1:] if row.split(",")[place]]
    assert result["val_loss"] == pytest.approx(min(losses), abs=1e-5)


def test_it_stops_when_its_time_is_over_with_weights_to_keep(trace: Path, tmp_path: Path) -> None:
    settings = settings_for(trace, tmp_path / "it", checkpoint_every=5)
    result = train_predictor(replace(settings, max_seconds=0.001))
    assert result["steps"] == 5
    assert load_predictor(tmp_path / "it").metadata.training["steps"] == 5
    # How long it might take is not what it is: it is finished.
    assert train_predictor(settings) == result


@pytest.mark.slow
def test_two_processes_give_the_same_loss(trace: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = []
    for devices in ("1", "2"):
        out = tmp_path / devices
        command = [sys.executable, str(script), str(trace), str(out), devices]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=500)
        assert finished.returncode == 0, finished.stderr[-2000:]
        found.append(json.loads((out / "result.json").read_text()))
    one, two = found
    assert one["steps"] == two["steps"] == 8
    assert two["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4)
    assert two["val_error"] == pytest.approx(one["val_error"], rel=1e-4)


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, make_pair: Any, make_prompt: Any
) -> tuple[Target, Drafter, Path]:
    """A tiny target saved to disk, its drafter, and a trace of them."""
    folder = tmp_path_factory.mktemp("real")
    make_pair("model")[0].model.save_pretrained(folder / "target")
    target = Target.from_pretrained(str(folder / "target"))
    drafter = ModelDrafter(make_pair("model")[1].model, target)
    prompts = [Prompt(f"p{seed}", token_ids=tuple(make_prompt(9, seed))) for seed in range(4)]
    recorder = Recorder(target, drafter, ("chain(length=4)",), max_new_tokens=40)
    texts = [text for prompt in prompts for text in recorder.record(prompt)]
    models = identify(target, drafter)
    toy_folder(
        folder / "trace",
        texts,
        target=str(folder / "target"),
        target_weights=models.target_weights,
        drafter_weights=models.drafter_weights,
        vocab_size=models.vocab_size,
    )
    return target, drafter, folder / "trace"


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("ldlp(k_max=4, use_pending=True)", "ldlp(predictor='{}')"),
        ("ldlp_class(k_max=4)", "ldlp_ddd(predictor='{}')"),
        ("specdec_pp(shape='chain(length=4)')", "specdec_pp(predictor='{}')"),
        ("disco(shape='chain(length=4)')", "disco(predictor='{}')"),
        ("c2t(shape='chain(length=4)')", "c2t(predictor='{}', depth=3, width=2, nodes=5)"),
        ("logistic(shape='chain(length=4)')", "specdec_pp(predictor='{}', max_risk=0.6)"),
        ("boosting(shape='chain(length=4)')", "disco(predictor='{}')"),
        ("isotonic(shape='chain(length=4)')", "disco(predictor='{}')"),
    ],
)
def test_from_a_recorded_trace_to_live_drafting(
    kind: str, policy: str, real: tuple[Target, Drafter, Path], tmp_path: Path
) -> None:
    target, drafter, trace = real
    train_predictor(settings_for(trace, tmp_path / "it", kind=kind, max_steps=6))
    prompt = [3, 1, 4, 1, 5]
    plain = generate(target, None, "vanilla", prompt, max_new_tokens=30)
    out = generate(target, drafter, policy.format(tmp_path / "it"), prompt, max_new_tokens=30)
    assert out.token_ids == plain.token_ids
    about = load_predictor(tmp_path / "it").metadata
    assert about.models.target == str(trace.parent / "target")
    assert about.split == "tune"
    assert about.training["settings"]["kind"] == kind


def test_the_embedding_is_the_trace_s_target_s(
    real: tuple[Target, Drafter, Path], tmp_path: Path, make_model: Any
) -> None:
    make_model("llama", seed=5).save_pretrained(tmp_path / "other")
    for name, message in ((tmp_path / "other", "got .*other"), (tmp_path / "none", "got .*none")):
        settings = settings_for(real[2], tmp_path / "it", kind="ldlp(k_max=4)", target=str(name))
        with pytest.raises(ValueError, match=f"(?s)target must be the trace's, .*{message}"):
            train_predictor(replace(settings, out=tmp_path / name.name / "it"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
        ({"warmup_steps": 300}, r"warmup_steps must be in 0\.\.299, got 300"),
        ({"validation_share": 1.0}, r"validation_share must be in \(0, 1\), got 1.0"),
        ({"patience": 0}, "patience must be >= 1, got 0"),
    ],
)
def test_settings_out_of_range(
    trace: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings_for(trace, tmp_path, **change)


def test_labels_that_need_a_cost(real: tuple[Target, Drafter, Path], tmp_path: Path) -> None:
    settings = settings_for(real[2], tmp_path / "it", kind="ldlp(k_max=4, labels='dp')")
    with pytest.raises(ValueError, match=r"cost must be given for ldlp.*, got none"):
        train_predictor(settings)
    COST.save(tmp_path / "cost.json")
    train_predictor(replace(settings, out=tmp_path / "two", cost=tmp_path / "cost.json"))
