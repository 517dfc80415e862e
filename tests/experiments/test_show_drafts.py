"""What `generate --show-drafts` says of each round, against what the rounds were."""

import json
import re
from typing import Any

import pytest
import torch
from rich.console import Console

from adaeagle import generate
from adaeagle.policy import Outcome
from adaeagle.registry import get_policy
from adaeagle.tree import DraftTree, Level
from experiments.recorded import Recorded
from experiments.views.drafts import DraftView, levels

ROUND = re.compile(r"round \d+: (\d+) drafted in (\d+) forwards?, (\d+) verified, (\d+) accepted")


def tree_of_seven() -> DraftTree:
    """Tokens 10, 11, 12 below the root; 20, 21 below 10; 22, 23 below 11."""
    first = Level(
        torch.tensor([[-1]]), torch.tensor([[[10, 11, 12]]]), torch.tensor([[[-0.5, -1.0, -3.0]]])
    )
    second = Level(
        torch.tensor([[0, 1]]),
        torch.tensor([[[20, 21], [22, 23]]]),
        torch.tensor([[[-0.6, -2.0], [-0.7, -3.0]]]),
    )
    return DraftTree.empty(1, "cpu").grow(first).grow(second)


def outcome(accepted_rows: list[int], tested_rows: list[int]) -> Outcome:
    tree = tree_of_seven()
    accepted, tested = torch.zeros(2, 1, len(tree), dtype=torch.bool)
    accepted[0, accepted_rows] = True
    tested[0, tested_rows] = True
    count = torch.tensor([len(accepted_rows)])
    seconds = torch.zeros(1, dtype=torch.float64)
    return Outcome(tree, tested, accepted, count, count + 1, torch.tensor([2]), seconds, seconds)


def test_the_emitted_token_comes_first() -> None:
    found = list(levels(outcome([1], [0, 1, 2, 5, 6]), [11, 99], 1))
    assert found == [
        [("accepted", 11), ("rejected", 10), ("rejected", 12)],
        [("own", 99), ("rejected", 22), ("rejected", 23), ("unreached", 20), ("unreached", 21)],
    ]


def test_a_round_cut_by_a_limit_has_no_token_of_its_own() -> None:
    found = list(levels(outcome([0, 3], [0, 1, 2, 3, 4]), [10], 1))
    assert [fates[0] for fates in found] == [("accepted", 10), ("rejected", 21)]
    assert ("unreached", 20) in found[1]


@pytest.mark.parametrize("spec", ["chain(length=4)", "eagle2(depth=3, width=3, nodes=8)"])
def test_generate_shows_every_round(run: Any, folders: Any, spec: str) -> None:
    arguments = (
        *("generate", "--target", folders.target, "--drafter", folders.head, "--policy", spec),
        *("--prompt", "Why?", "--max-new-tokens", 20, "--device", "cpu"),
    )
    shown = run(*arguments, "--show-drafts")
    answer = json.loads(run(*arguments, "--json").stdout)
    assert shown.code == 0
    assert "20 tokens in" in shown.stderr
    keys = ("num_drafted", "depth", "num_verified", "num_accepted")
    rounds = [tuple(map(int, found)) for found in ROUND.findall(shown.stdout)]
    assert rounds == [tuple(found[key] for key in keys) for found in answer["rounds"]]
    legend, *lines = shown.stdout.split("\n")
    assert legend.startswith("+ accepted")
    # The marks of the emitted tokens spell the answer.
    spelt = [found[1] for line in lines if (found := re.match(r" +\d+  [+=](\S+)", line))]
    assert "".join(spelt).replace("·", " ") == answer["text"]
    assert shown.stdout.endswith(f"\n\n{answer['text']}\n")


def test_colours_where_there_are_any() -> None:
    console = Console(force_terminal=True, color_system="standard", width=100)
    with console.capture() as captured:
        DraftView(None, console)
    assert "\x1b[1;32m+ accepted" in captured.get()


def test_a_watched_policy_decides_and_learns_as_before(make_pair: Any, make_prompt: Any) -> None:
    target, drafter = make_pair("model")
    heard: list[Outcome] = []
    texts = []
    states = []
    for watch in (False, True):
        policy = get_policy("chain(stop=hf_heuristic(across_texts=True))")
        watched = Recorded(policy, heard.append) if watch else policy
        texts.append(generate(target, drafter, watched, make_prompt(8), max_new_tokens=30))
        states.append(str(watched.state_dict()))
    counts = [[(r.depth, r.num_accepted) for r in text.rounds] for text in texts]
    assert counts[0] == counts[1]
    assert states[0] == states[1] != "{}"
    assert [int(found.num_accepted) for found in heard] == [n for _, n in counts[1]]


def test_not_with_json(run: Any) -> None:
    found = run("generate", "--prompt", "x", "--show-drafts", "--json")
    assert found.code == 2
    assert "--show-drafts must be given without --json" in found.stderr
