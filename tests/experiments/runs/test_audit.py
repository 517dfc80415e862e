"""The audit: silent where text is lossless, loud where it is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adaeagle.bench.audit import Audit, Parting, TransformersReference, VanillaReference
from adaeagle.bench.run_folder import RunFolder
from adaeagle.data.prompts import Prompt
from adaeagle.decoding import verification as verify
from adaeagle.registry import get_policy

RESULT_KEYS = {
    *("target", "drafter", "hardware", "versions", "git", "config", "prompts_sha256"),
    *("token_ids_sha256", "tokenizer_sha256", "generation"),
    *("near_tie", "is_lossless", "arms", "divergences", "per_prompt"),
}
POLICIES = ("--policies", "chain(length=3)", "eagle2(depth=3, width=3, nodes=8)")


@pytest.fixture
def audit(run: Any, folders: Any, prompts: Path) -> Callable[..., Any]:
    """Runs `adaeagle audit` on the tiny models."""

    def run_audit(*arguments: object) -> Any:
        return run(
            *("audit", "--target", folders.target, "--drafter", folders.head, *POLICIES),
            *("--prompts", prompts, "--max-new-tokens", 12, "--device", "cpu"),
            *arguments,
        )

    return run_audit


@pytest.fixture
def credulous(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verification that takes the first drafted token unseen."""
    greedy = verify.greedy

    def accept(tree: Any, paths: Any, said: torch.Tensor) -> torch.Tensor:
        accepted = greedy(tree, paths, said)
        if len(tree) and not accepted.any():
            accepted[:, 0] = True
        return accepted

    monkeypatch.setattr(verify, "greedy", accept)


def test_lossless_text_passes(audit: Any) -> None:
    found = audit("--out", "runs/one")
    assert found.code == 0
    results = json.loads(Path("runs/one/results.json").read_text())
    assert results.keys() == RESULT_KEYS
    assert [arm["policy"] for arm in results["arms"]] == ["vanilla", *POLICIES[1:]]
    assert [arm["num_compared"] for arm in results["arms"]] == [60] * 3  # 5 turns of 12
    assert all(arm["accepted_per_round"] > 1 for arm in results["arms"][1:])
    assert [record["id"] for record in results["per_prompt"]] == ["1", "2", "3", "four"]
    *shown, last = found.stdout.splitlines()
    line = json.loads(last)
    assert (line["num_compared"], line["num_divergences"]) == (180, 0)
    assert "against transformers" in shown[0]
    assert "accepted" in found.stdout


def test_a_broken_verification_is_caught(audit: Any, credulous: None) -> None:
    found = audit("--out", "runs/one", "--json")
    assert found.code == 1
    line = json.loads(found.stdout)
    assert not line["is_lossless"]
    assert 0 < line["num_above_near_tie"] == line["num_divergences"]
    results = json.loads(Path("runs/one/results.json").read_text())
    assert results["arms"][0]["num_divergences"] == 0
    for parted in results["divergences"]:
        assert parted["expected"] != parted["found"]
        assert parted["top2_gap"] > 1e-4
    assert "divergences; results.json has all" in found.stderr


def test_an_interrupted_audit_goes_on(audit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    append = RunFolder.append

    def failing(self: RunFolder, record: Any) -> None:
        if record.id == "3":
            raise KeyboardInterrupt
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", failing)
        assert audit("--out", "runs/one").code == 130
    resumed = audit("--out", "runs/one", "--json")
    assert resumed.code == 0
    assert "2 of 4 prompts were finished" in resumed.stderr
    assert json.loads(resumed.stdout)["num_compared"] == 180


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_models_need_no_files(run: Any, credulous: None, dtype: str) -> None:
    """Half precision rounds too coarsely to be judged: what parts is told."""
    found = run(
        *("audit", "--target", "random:qwen2", "--policies", "chain(length=3)", "--limit", 2),
        *("--max-new-tokens", 24, "--device", "cpu", "--dtype", dtype, "--json"),
        *("--against", "vanilla"),
    )
    line = json.loads(found.stdout)
    assert line["num_prompts"] == 2
    assert line["num_divergences"] > 0
    assert found.code == (1 if dtype == "float32" else 0)


def test_both_references_agree(make_pair: Any, make_prompt: Any) -> None:
    target, drafter = make_pair("model")
    prompts = [Prompt(f"{n}", token_ids=tuple(make_prompt(5 + n, n))) for n in range(3)]
    policies = {"chain": get_policy("chain(length=4)")}
    gaps = []
    for reference in (TransformersReference(target, 20), VanillaReference(target, 20)):
        records = list(Audit(target, drafter, policies, reference, 20).run(prompts))
        assert [record.arms["chain"].num_compared for record in records] == [20] * 3
        assert not any(record.divergences for record in records)
        ids = list(prompts[0].token_ids)
        gaps.append(reference.gap(ids, reference.text(ids), 7))
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-4)


def test_a_text_that_ends_elsewhere_is_no_near_tie(make_pair: Any, make_prompt: Any) -> None:
    target, drafter = make_pair("model")
    policies = {"chain": get_policy("chain(length=4)")}
    reference = TransformersReference(target, 8)
    prompt = Prompt("a", token_ids=tuple(make_prompt(6)))
    [record] = Audit(target, drafter, policies, reference, 10).run([prompt])
    [parted] = record.divergences
    assert (parted.position, parted.expected, parted.top2_gap) == (8, None, None)
    assert not parted.is_near_tie
    assert Parting("chain", 0, 3, 1, 2, 9e-5).is_near_tie
    assert not Parting("chain", 0, 3, 1, 2, 2e-4).is_near_tie


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--against", "llama.cpp"), ("--against", "transformers, vanilla", "'llama.cpp'")),
        (("--target", "random:gpt5"), ("--target", "llama, mistral", "'gpt5'")),
        (("--target", "random", "--drafter", "x"), ("--drafter", "must not be given", "'x'")),
        (("--target", "random", "--dtype", "int8"), ("--dtype", "float32", "'int8'")),
        (("--policies", "chian"), ("--policies", "did you mean 'chain'")),
    ],
)
def test_wrong_input(run: Any, arguments: tuple[str, ...], fragments: tuple[str, ...]) -> None:
    found = run("audit", *arguments)
    assert found.code == 2
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert all(fragment in found.stderr for fragment in fragments)
