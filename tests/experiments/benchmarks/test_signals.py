"""The audit of signals finds what was put there, and nothing in shuffled labels."""

import json
from pathlib import Path

import pytest
import torch

from adaeagle.cost.model import CostModel
from adaeagle.testing.toy_trace import toy_folder, toy_trace
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from experiments.benchmarks import signal_audit, signals
from experiments.benchmarks.signal_audit import EVERYTHING

K_MAX = 6
COST = CostModel.linear(constant=0.05, draft=0.15, verify=1.0, node=0.01)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_audit, "MOST_TREES", 25)


def _texts(num_texts: int = 10) -> list[RecordedText]:
    """Texts whose feature tells the length of every draft; all tokens are as sure as each other."""
    generator = torch.Generator().manual_seed(0)
    lengths, features = [], []
    for _ in range(num_texts):
        own: list[int] = []
        while len(own) < 60:
            first = int(torch.randint(0, K_MAX + 1, (1,), generator=generator))
            own += range(first, -1, -1)
        noise = torch.randn(len(own), 4, generator=generator)
        noise[:, 1] = 3.0 * torch.tensor(own)
        lengths.append(own)
        features.append(noise)
    return toy_trace(lengths, k_max=K_MAX, features=features)


@pytest.mark.filterwarnings("ignore")  # scikit-learn's network on few examples
def test_the_feature_tells_and_shuffled_labels_do_not() -> None:
    result = signals.run(Trace(_texts(), 50), COST, K_MAX, torch.arange(50) % 3)
    rows = {row["signals"]: row for row in result["rows"]}
    assert {"draft", "target", "suffix", "history", "token", "feature"} <= set(rows)
    assert rows["feature"]["bits"] > 0.2
    assert rows["feature"]["bits_ci95"][0] > 0
    assert rows["feature"]["headroom"] > 0.5
    assert rows["target"]["bits"] < 0.05 < rows[EVERYTHING]["bits"]
    assert result["shuffled_bits"] < 0.02
    assert result["irreducible"] == pytest.approx(1 - rows[EVERYTHING]["headroom"])
    sampled = result["temperature_1"]
    assert sampled["oracle_tokens_per_second"] >= sampled["fixed_tokens_per_second"]


@pytest.mark.filterwarnings("ignore")  # scikit-learn's network on few examples
def test_one_command_from_the_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy_folder(tmp_path / "trace", _texts())
    COST.save(tmp_path / "trace" / "cost.json")
    out = tmp_path / "signals.json"
    signals.main([str(tmp_path / "trace"), "--split", "all", "--k-max", "4", "--out", str(out)])
    assert json.loads(out.read_text())["num_prompts"] == 10
    assert out.with_suffix(".png").is_file()
    shown = capsys.readouterr()
    assert shown.out.strip().splitlines()[-1].startswith('{"benchmark": "signals"')
    assert "tokenizer is not there" in shown.err
