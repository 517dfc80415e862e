"""Sampled verification equals the official code's on explicit logits, trees and uniforms."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle import DraftTree
from adaeagle.decoding import verification
from adaeagle.decoding.sampling import Sampling

GOLDEN = Path(__file__).parent.parent / "golden"


def load(name: str) -> list[dict[str, Any]]:
    with gzip.open(GOLDEN / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)["cases"]  # type: ignore[no-any-return]


def make_tree(case: dict[str, Any]) -> tuple[DraftTree, list[int]]:
    """The drafted nodes of a case, whose row 0 is the root, and each draft row's recorded node."""
    parents = [parent - 1 for parent in case["parents"][1:]]
    nodes = list(dict.fromkeys(parents))  # a draft row for every parent, in order
    zeros = torch.zeros(1, len(parents))
    ids = torch.zeros_like(zeros, dtype=torch.int64)
    tree = DraftTree(
        token_ids=torch.tensor([case["tokens"][1:]]),
        parents=torch.tensor([parents]),
        depths=ids,
        log_probs=zeros,
        path_log_probs=zeros,
        ranks=ids,
        valid=torch.ones_like(ids, dtype=torch.bool),
        origins=torch.tensor([[nodes.index(parent) for parent in parents]]),
    )
    return tree, [node + 1 for node in nodes]


def check(
    case: dict[str, Any], tree: DraftTree, probs: Tensor, distributions: Tensor | None
) -> None:
    uniforms = iter(case["uniforms"])
    found = verification.rejection(tree, probs, distributions, lambda: next(uniforms))
    assert next(uniforms, None) is None
    assert len(found.tested) == len(case["uniforms"])
    assert [0, *(row + 1 for row in found.rows)] == case["accepted_nodes"]
    assert len(found.rows) == case["accept_length"]
    expected = torch.tensor(case["bonus_distribution"])
    torch.testing.assert_close(found.bonus_probs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", load("verify_sampling_eagle2"))
def test_point_masses(case: dict[str, Any]) -> None:
    distribution = Sampling(
        temperature=case["temperature"], top_p=case["top_p"] or 1.0, top_k=case["top_k"]
    )
    tree, _ = make_tree(case)
    check(case, tree, distribution.log_probs(torch.tensor(case["target_logits"])).exp(), None)


@pytest.mark.parametrize("case", load("verify_sampling_eagle1"))
def test_drawn_children(case: dict[str, Any]) -> None:
    """All cases are at temperature 1, where the official bonus distribution has no flaw."""
    assert case["temperature"] == 1
    tree, nodes = make_tree(case)
    distributions = torch.tensor([case["draft_probs_of_node"][str(node)] for node in nodes])
    check(case, tree, torch.tensor(case["target_logits"]).softmax(-1), distributions)
