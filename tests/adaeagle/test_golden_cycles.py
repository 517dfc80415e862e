"""Every draft/verify cycle equals the official EAGLE code's: text, accepted lengths, trees, scores.

The recordings and what they may be held to are described in `tests/golden/README.md`.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adaeagle import (
    Budget,
    Context,
    DraftTree,
    EagleDrafter,
    Outcome,
    Policy,
    Target,
    get_policy,
    stream,
)

GOLDEN = Path(__file__).parent.parent / "golden"
HEADS = ("rand/eagle_head", "rand/eagle_head_l3style", "trained/eagle_head")
CLEAR_GAP = 1e-4
"""Where a smaller difference of scores decided a tree, another right kernel may give another."""


def load(name: str) -> dict[str, Any]:
    with gzip.open(GOLDEN / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)  # type: ignore[no-any-return]


def load_pair(head: str) -> tuple[Target, EagleDrafter]:
    target = Target.from_pretrained(str(GOLDEN / head.split("/")[0] / "target"))
    return target, EagleDrafter.from_pretrained(str(GOLDEN / head), target)


class Watched(Policy):
    """A policy that is looked at: keeps every tree that was verified."""

    learns = True

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.static_shape = policy.static_shape
        self.trees: list[DraftTree] = []

    def plan(self, context: Context) -> Budget:
        return self.policy.plan(context)

    def expand(self, tree: DraftTree, frontier: torch.Tensor, budget: Budget) -> torch.Tensor:
        return self.policy.expand(tree, frontier, budget)

    def select(self, tree: DraftTree, budget: Budget) -> torch.Tensor:
        return self.policy.select(tree, budget)

    def observe(self, outcome: Outcome) -> None:
        self.trees.append(outcome.tree)


def check_text(
    target: Target, drafter: EagleDrafter, spec: str, prompt: list[int], recorded: dict[str, Any]
) -> list[DraftTree]:
    """Runs as many rounds as were recorded; their trees."""
    policy = Watched(get_policy(spec))
    room = len(recorded["generated_all"]) + 16
    pieces = stream(target, drafter, policy, prompt, max_new_tokens=room, stop_token_ids=[])
    text = next(pieces).token_ids
    accepted = []
    for _, piece in zip(recorded["cycles"], pieces, strict=False):
        assert piece.round is not None
        accepted.append(piece.round.num_accepted)
        text += piece.token_ids
    assert accepted == recorded["accept_lengths"]
    # The official text leaves out the last bonus token.
    assert text[:-1] == recorded["generated_all"]
    return policy.trees


Path_ = tuple[int, ...]  # tokens from the root to a node


def paths_of(tokens: list[int], parents: list[int]) -> list[Path_]:
    """Of every node but the root, whose row number is -1; a parent comes before its child."""
    paths: list[Path_] = []
    for token, parent in zip(tokens, parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


def our_scores(tree: DraftTree) -> dict[Path_, float]:
    paths = paths_of(tree.token_ids[0].tolist(), tree.parents[0].tolist())
    assert tree.depths[0].tolist() == [len(path) for path in paths]
    return dict(zip(paths, tree.path_log_probs[0].tolist(), strict=True))


def their_scores(cycle: dict[str, Any]) -> dict[Path_, float]:
    """Of a recorded tree, whose row 0 is the root."""
    paths = paths_of(cycle["tokens"][1:], [parent - 1 for parent in cycle["parents"][1:]])
    return dict(zip(paths, cycle["scores"][1:], strict=True))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("number", range(4), ids=["60-5-10", "26-4-8", "10-3-4", "6-4-1"])
def test_eagle2(head: str, number: int) -> None:
    folder, name = head.split("/")
    recording = load(f"{folder}/golden_eagle2_{name}")
    run = recording["runs"][number]
    nodes, depth, width = run["total_token"] - 1, run["depth"] + 1, run["top_k"]
    spec = f"eagle2(depth={depth}, width={width}, nodes={nodes})"
    target, drafter = load_pair(head)
    num_clear = num_trees = 0
    for prompt, recorded in zip(recording["prompts"], run["prompts"], strict=True):
        trees = check_text(target, drafter, spec, prompt, recorded)
        for tree, cycle in zip(trees, recorded["cycles"], strict=True):
            ours, theirs = our_scores(tree), their_scores(cycle)
            # A chain has no cuts, hence no gaps.
            is_clear = all(gap is None or gap > CLEAR_GAP for gap in cycle["gaps"][:3])
            assert ours.keys() == theirs.keys() or not is_clear
            for path in ours.keys() & theirs.keys():
                assert ours[path] == pytest.approx(theirs[path], abs=5e-5)
            num_clear += is_clear
            num_trees += 1
    assert num_clear > 0.7 * num_trees


@pytest.mark.parametrize("head", ["rand/eagle_head", "trained/eagle_head"])
@pytest.mark.parametrize("number", range(3), ids=["mc_sim_7b_63", "chain5", "small6"])
def test_eagle1(head: str, number: int) -> None:
    recording = load(f"{head.split('/')[0]}/golden_eagle1_eagle_head")
    run = recording["runs"][number]
    is_named = run["tree"] == "mc_sim_7b_63"
    spec = "static_tree('eagle1')" if is_named else f"static_tree({run['choices']})"
    target, drafter = load_pair(head)
    parents = [parent - 1 for parent in run["parents"][1:]]
    for prompt, recorded in zip(recording["prompts"], run["prompts"], strict=True):
        trees = check_text(target, drafter, spec, prompt, recorded)
        for tree, cycle in zip(trees, recorded["cycles"], strict=True):
            # Official rows are ordered by depth and then rank, as ours.
            assert tree.parents[0].tolist() == parents
            assert tree.token_ids[0].tolist() == cycle["tokens"][1:]
            # Their scores are logits: siblings differ as their log-probabilities do.
            logits = torch.tensor(cycle["draft_logits"][1:])
            first = torch.tensor([parents.index(parent) for parent in parents])
            ours = tree.log_probs[0] - tree.log_probs[0, first]
            torch.testing.assert_close(ours, logits - logits[first], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 3, 5])
def test_chain_is_a_tree_of_width_1(length: int) -> None:
    """Three ways to say the same draft, on a pair that accepts three to five tokens a cycle."""
    recording = load("trained/golden_eagle1_eagle_head")
    target, drafter = load_pair("trained/eagle_head")
    paths = [[0] * depth for depth in range(1, length + 1)]
    accepted = []
    for spec in (
        f"chain(length={length})",
        f"static_tree({paths})",
        f"eagle2(depth={length}, width=1, nodes={length})",
    ):
        pieces = stream(target, drafter, spec, recording["prompts"][0], max_new_tokens=40)
        accepted.append([piece.round.num_accepted for piece in pieces if piece.round is not None])
    assert accepted[0] == accepted[1] == accepted[2]
    if length == 5:
        chain5 = recording["runs"][1]["prompts"][0]["accept_lengths"]
        assert accepted[0][:-2] == chain5[: len(accepted[0]) - 2]
