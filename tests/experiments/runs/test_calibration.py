"""Acceptance by confidence and by depth: what is counted, drawn and written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from adaeagle import generate
from adaeagle.policy import Outcome
from adaeagle.registry import get_policy
from adaeagle.tree import DraftTree, Level
from experiments.recorded import Recorded
from experiments.runs.calibration import NUM_BINS, Bins, CalibrationRecord, results
from experiments.views import acceptance_plots


def outcome(confidences: list[float], tested: list[int], accepted: list[int]) -> Outcome:
    """One level below the root."""
    count = len(confidences)
    log_probs = torch.tensor(confidences).log().view(1, 1, count)
    level = Level(torch.tensor([[-1]]), torch.arange(count).view(1, 1, count), log_probs)
    marks = torch.zeros(2, 1, count, dtype=torch.bool)
    marks[0, 0, tested] = True
    marks[1, 0, accepted] = True
    seconds = torch.zeros(1, dtype=torch.float64)
    ones = torch.tensor([1])
    tree = DraftTree.empty(1, "cpu").grow(level)
    return Outcome(tree, marks[0], marks[1], ones, ones, ones, seconds, seconds)


def test_tested_tokens_count_in_the_bin_of_their_confidence() -> None:
    bins = Bins.empty()
    bins.add(outcome([1.0, 0.52, 0.51, 0.07], tested=[0, 1, 2], accepted=[0, 1]))
    bins.add(outcome([0.53], tested=[0], accepted=[0]))
    assert bins.num_tested[NUM_BINS - 1] == bins.num_accepted[NUM_BINS - 1] == 1
    assert (bins.num_tested[10], bins.num_accepted[10]) == (3, 2)
    assert sum(bins.num_tested) == 4
    [arm] = results([CalibrationRecord("a", {"chain": bins})] * 2)
    assert [found["num_tested"] for found in arm["bins"]] == [6, 2]
    assert arm["bins"][0]["confidence"] == pytest.approx((0.52 + 0.51 + 0.53) / 3)
    assert arm["bins"][0]["acceptance"] == pytest.approx(2 / 3)
    # |2 - 1.56| of the middle bin, nothing of the last, over four tokens.
    assert arm["calibration_error"] == pytest.approx(0.44 / 4)


def test_records_survive_the_disk() -> None:
    bins = Bins.empty()
    bins.add(outcome([0.5], tested=[0], accepted=[]))
    record = CalibrationRecord("a", {"chain": bins})
    assert CalibrationRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_a_chain_tests_one_token_more_than_it_accepts(make_pair: Any, make_prompt: Any) -> None:
    target, drafter = make_pair("model")
    bins = Bins.empty()
    policy = Recorded(get_policy("chain(length=4)"), bins.add)
    out = generate(target, drafter, policy, make_prompt(8), max_new_tokens=40)
    whole = out.rounds[:-1]  # the limit cuts the last
    accepted = sum(found.num_accepted for found in whole)
    rejected = sum(found.num_accepted < found.depth for found in whole)
    assert 0 <= sum(bins.num_tested) - (accepted + rejected) <= out.rounds[-1].depth
    assert accepted <= sum(bins.num_accepted) <= accepted + out.rounds[-1].depth


def test_pictures() -> None:
    bins = Bins.empty()
    bins.add(outcome([0.9, 0.2], tested=[0, 1], accepted=[0]))
    record = CalibrationRecord("a", {"chain": bins, "eagle2": Bins.empty()})
    figure = acceptance_plots.calibration(results([record]), ["vanilla", "chain", "eagle2"])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "chain\nmean distance 15.0 %"
    assert "eagle2\nnothing tested" in titles
    assert math.isclose(figure.axes[0].lines[-1].get_ydata()[-1], 100)  # type: ignore[index,arg-type]


def test_compare_calibrates_on_request(compare: Any) -> None:
    arguments = ("--policies", "chain(length=3)", "eagle2(depth=3, width=3, nodes=8)")
    first = compare(*arguments, "--out", "runs/one")
    before = Path("runs/one/results.json").read_text()
    assert not Path("runs/one/calibration").exists()
    found = compare(*arguments, "--out", "runs/one", "--calibration")
    assert found.code == first.code == 0
    assert (
        json.loads(before)["arms"] == json.loads(Path("runs/one/results.json").read_text())["arms"]
    )
    written = json.loads(Path("runs/one/calibration/results.json").read_text())
    assert [arm["policy"] for arm in written["arms"]] == list(arguments[1:])
    for arm in written["arms"]:
        assert sum(found["num_accepted"] for found in arm["bins"]) > 20
        assert 0 <= arm["calibration_error"] <= 1
    picture = Path("runs/one/calibration/calibration.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in found.stdout


def test_without_a_policy_that_drafts(run: Any) -> None:
    found = run("compare", "--policies", "vanilla", "--calibration")
    assert found.code == 2
    assert "--calibration needs a policy that drafts" in found.stderr
