"""Rules over texts side by side on a made-up trace, and where texts come from."""

import json
from pathlib import Path

import pytest
import torch

from adaeagle.testing.toy_trace import toy_folder, toy_trace
from experiments.benchmarks import batch_rules
from experiments.views.batches import BatchPoint


def test_a_run_from_its_trace_to_its_picture(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 6, (5, 30), generator=generator).tolist()
    toy_folder(tmp_path / "trace", toy_trace(lengths))
    given = ["--trace", str(tmp_path / "trace"), "--cost", "mini", "--batch-sizes", "1", "4"]
    specs = ["vanilla", "chain(length=2)", "chain(length=4)", "goodput(length=6)"]
    out = tmp_path / "result.json"
    found = batch_rules.main([*given, "--policies", *specs, "--out", str(out)])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(out.read_text())["num_texts"] == 5
    points = {(each["policy"], each["batch_size"]): each for each in found["points"]}
    assert len(points) == 8
    # No rule is priced differently for being found by another name.
    for size in (1, 4):
        chains = [points[spec, size]["tokens_per_second"] for spec in specs[:3]]
        ratio = points["goodput(length=6)", size]["tokens_per_second"] / max(chains)
        assert found["over_best_fixed"]["goodput(length=6)"][size] == pytest.approx(ratio, abs=1e-3)
    assert found["over_best_fixed"]["vanilla"][1] <= 1


def test_arrivals(tmp_path: Path) -> None:
    assert batch_rules.arrivals("all", 3) is None
    times = batch_rules.arrivals("poisson:2", 50)
    assert times is not None
    assert times == sorted(times)
    file = tmp_path / "times.json"
    file.write_text("[0, 0.5, 2, 9]")
    assert batch_rules.arrivals(str(file), 3) == [0.0, 0.5, 2.0]


def test_the_best_fixed_length_is_of_the_same_batch_size() -> None:
    speeds = {("vanilla", 1): 5.0, ("chain(length=2)", 1): 10.0, ("goodput", 1): 12.0}
    points = [BatchPoint(*key, speed, 1.0, 1.0, 1.0) for key, speed in speeds.items()]
    points.append(BatchPoint("chain(length=2)", 8, 100.0, 1.0, 1.0, 1.0))
    points.append(BatchPoint("goodput", 8, 90.0, 1.0, 1.0, 1.0))
    found = batch_rules.against_fixed(points)
    assert found["goodput"] == {1: 1.2, 8: 0.9}
