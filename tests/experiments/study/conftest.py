"""A predictor on disk, and studies of tiny models."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adaeagle.cost.model import CostModel
from adaeagle.identity import ModelIdentity
from experiments.study import stages
from experiments.study.stages import StageResult, Study


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory, random_predictor: Any) -> Path:
    """The folder of an LDLP predictor."""
    models = ModelIdentity("a", "a", "b", "b", feature_size=8, vocab_size=30, dtype="float32")
    folder = tmp_path_factory.mktemp("predictors") / "ldlp"
    random_predictor("ldlp(hidden_size=8)", models).save(folder)
    return folder


@pytest.fixture
def study(
    run: Any, folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Runs `adaeagle study` on tiny models and eight prompts, without measuring and drawing."""
    lines = [
        {"id": f"{source} {n}", "source": source, "turns": [f"What is {n} {source}?"]}
        for source in ("near", "far")
        for n in range(4)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def priced(study: Study, seconds: float | None) -> StageResult:
        study.cost.parent.mkdir(exist_ok=True)
        CostModel.linear(constant=0.001, draft=0.002, verify=0.01, node=0.0005).save(study.cost)
        return StageResult("priced", [])

    monkeypatch.setitem(stages.STAGES, "profile", (6.0, priced))
    for place in ("sweep.running._figures", "study.running._pictures"):
        monkeypatch.setattr(f"experiments.{place}", lambda *_: {})

    def run_study(*arguments: object, policies: Sequence[str] = ("chain", "confidence")) -> Any:
        return run(
            *("study", "--target", folders.target, "--drafter", folders.head, "--device", "cpu"),
            *("--threads", 1, "--prompts", "prompts.jsonl", "--max-new-tokens", 10),
            *("--policies", *policies, "--trials", 3, "--out", "study", *arguments),
        )

    return run_study
