"""At a temperature above 0 whole texts follow the target's distribution, whatever drafts them.

A tiny target says with what probability each token of a text had to come; over many texts each
token must have come as often, within sampling noise. A rule that breaks the distribution must fail
this.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle import DraftTree, Policy, Target, generate_batch, get_policy
from adaeagle.decoding import verification as verify
from adaeagle.drafters.base import Drafter, DraftSession, Proposal
from adaeagle.drafters.merged import MergedDrafter
from adaeagle.drafters.suffix import SuffixDrafter

VOCAB = 5
PROMPT = [2, 0]
LENGTH = 20
PLAIN: dict[str, Any] = {"temperature": 1.0}
COOL_TOP_K: dict[str, Any] = {"temperature": 0.7, "top_k": 3}
HOT_TOP_P: dict[str, Any] = {"temperature": 1.5, "top_p": 0.8}

TREE = "[[0], [1], [2], [0, 0], [0, 1], [1, 0], [0, 0, 0]]"
# More children than `COOL_TOP_K` leaves tokens: some are drawn from an empty distribution.
WIDE = "[[0], [1], [2], [3], [4], [0, 0], [0, 1], [0, 2], [0, 3]]"
EAGLE2 = "eagle2(depth=3, width=2, nodes=5)"

CASES = (
    ("vanilla", HOT_TOP_P),
    ("chain(length=3)", PLAIN),
    ("chain(length=3)", HOT_TOP_P),
    ("chain(length=4, stop=confidence(threshold=0.3))", PLAIN),
    ("chain(length=3, proposal='top_k')", COOL_TOP_K),
    (f"static_tree({TREE})", PLAIN),
    (f"static_tree({TREE})", HOT_TOP_P),
    (f"static_tree({WIDE})", COOL_TOP_K),
    (f"static_tree({TREE}, proposal='top_k')", PLAIN),
    (EAGLE2, HOT_TOP_P),
    # Most of the tree is left out: children that were not drawn may be.
    ("eagle2(depth=3, width=4, nodes=2)", PLAIN),
    # Texts share a budget, which is spent where draws turned out likely.
    ("batch_slots(length=4, total=70)", HOT_TOP_P),
    (f"batch_select({EAGLE2}, total=100)", PLAIN),
)


class TableDrafter(Drafter):
    """Knows what follows a token from a table, over `vocab_map` where there is one."""

    name = "table"

    def __init__(self, logits: Tensor, vocab_map: Tensor | None = None) -> None:
        self.table = logits  # [target V, draft V]
        self.vocab_map = vocab_map

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> "TableSession":
        return TableSession(self.table, len(prompts))


class TableSession(DraftSession):
    """Remembers the pending tokens alone."""

    def __init__(self, table: Tensor, num_texts: int) -> None:
        self._table = table
        self._last = torch.zeros(num_texts, 1, dtype=torch.int64)

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        for row, count in enumerate(counts):
            if count > 0:
                self._last[row] = token_ids[row, count - 1]
        return Proposal(self._table[self._last])

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        return Proposal(self._table[token_ids])

    def replace(self, row: int, prompt_ids: Sequence[int]) -> None:
        """Nothing is known of a text but its pending token."""

    def keep(self, rows: Sequence[int]) -> None:
        self._last = self._last[list(rows)]


@pytest.fixture(scope="module")
def target(make_model: Callable[..., Any]) -> Target:
    """Of five tokens and with one layer: its distribution depends on all that came before."""
    return Target(make_model("llama", std=0.3, num_layers=1, hidden_size=16, vocab_size=VOCAB))


@pytest.fixture(scope="module")
def drafter() -> TableDrafter:
    """Of another mind than the target: about half of its tokens are accepted."""
    torch.manual_seed(1)
    return TableDrafter(torch.randn(VOCAB, VOCAB))


def say(
    target: Target,
    drafter: Drafter,
    policy: Policy,
    distribution: dict[str, Any],
    num_texts: int = 50,
    max_batch: int = 1,
) -> Tensor:
    """Texts of as many seeds, [num_texts, LENGTH]."""
    return torch.tensor(
        [
            out.token_ids
            for out in generate_batch(
                target,
                drafter,
                policy,
                [PROMPT] * num_texts,
                max_batch=max_batch,
                max_new_tokens=LENGTH,
                **distribution,
            )
        ]
    )


def processed(logits: Tensor, temperature: float, top_k: int = VOCAB, top_p: float = 1.0) -> Tensor:
    """The distribution of each row, spelled out.

    The `top_k` best, then the fewest with `top_p` in sum.
    """
    probs, ids = (logits / temperature).softmax(-1).sort(descending=True)
    probs[..., top_k:] = 0
    probs /= probs.sum(-1, keepdim=True)
    probs[probs.cumsum(-1) - probs >= top_p] = 0
    probs /= probs.sum(-1, keepdim=True)
    return torch.zeros_like(probs).scatter(-1, ids, probs)


def distance(target: Target, texts: Tensor, distribution: dict[str, Any]) -> float:
    """How far the texts are from the target's distribution, in standard deviations of plain
    sampling.

    A chi-square over (token before, token): expected counts are sums of exact probabilities.
    """
    prompts = torch.tensor(PROMPT).expand(len(texts), -1)
    whole = torch.cat((prompts, texts), dim=1)
    with torch.inference_mode():
        logits = target.model(whole).logits[:, len(PROMPT) - 1 : -1].double()
    expected, found = torch.zeros(2, VOCAB, VOCAB, dtype=torch.float64)
    before = whole[:, len(PROMPT) - 1 : -1].flatten()
    expected.index_add_(0, before, processed(logits, **distribution).flatten(0, 1))
    cells = torch.stack((before, texts.flatten()))
    found.index_put_(tuple(cells), torch.ones(1, dtype=torch.float64), accumulate=True)
    possible = expected > 0
    assert not found[~possible].any(), "a token of probability 0 was emitted"
    chi_square = ((found - expected).square() / expected)[possible].sum()
    freedom = int(possible.sum()) - VOCAB
    return float(chi_square - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(("spec", "distribution"), CASES, ids=str)
def test_texts_follow_the_distribution(
    spec: str, distribution: dict[str, Any], target: Target, drafter: TableDrafter
) -> None:
    texts = say(target, drafter, get_policy(spec), distribution)
    assert distance(target, texts, distribution) < 4


@pytest.mark.parametrize(("spec", "distribution"), CASES, ids=str)
def test_texts_side_by_side_follow_the_distribution(
    spec: str, distribution: dict[str, Any], target: Target, drafter: TableDrafter
) -> None:
    texts = say(target, drafter, get_policy(spec), distribution, num_texts=200, max_batch=50)
    assert distance(target, texts, distribution) < 4


@pytest.mark.parametrize(
    ("spec", "distribution"), [(f"static_tree({TREE})", PLAIN), (EAGLE2, COOL_TOP_K)], ids=str
)
def test_a_network_and_a_look_up(
    spec: str, distribution: dict[str, Any], target: Target, drafter: TableDrafter
) -> None:
    """Tokens that both propose, and those of one alone, come as often as they must."""
    merged = MergedDrafter(None, drafter, SuffixDrafter())
    texts = say(target, merged, get_policy(spec), distribution)
    assert distance(target, texts, distribution) < 4


def test_trying_a_token_twice_is_caught(
    target: Target, drafter: TableDrafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a token that both propose stands in the tree once for each."""
    accept = verify.accept_child

    def twice(
        probs: Tensor, children: Sequence[int], drawn_from: Tensor | None, *rest: Any
    ) -> tuple[int | None, int, Tensor]:
        doubled = [token for token in children for _ in range(2)]
        index, tried, residual = accept(probs, doubled, drawn_from, *rest)
        return None if index is None else index // 2, -(-tried // 2), residual

    monkeypatch.setattr(verify, "accept_child", twice)
    merged = MergedDrafter(None, drafter, SuffixDrafter())
    texts = say(target, merged, get_policy(EAGLE2), PLAIN, num_texts=100)
    assert distance(target, texts, PLAIN) > 12


@pytest.mark.parametrize("spec", ["chain(length=3)", EAGLE2])
def test_draft_vocabulary_of_its_own(spec: str, target: Target) -> None:
    """Tokens the drafter cannot say come as often as they must."""
    torch.manual_seed(2)
    drafter = TableDrafter(torch.randn(VOCAB, 3), vocab_map=torch.tensor([4, 0, 3]))
    assert distance(target, say(target, drafter, get_policy(spec), PLAIN), PLAIN) < 4


@pytest.mark.parametrize("spec", ["chain(length=3)", f"static_tree({TREE})"])
def test_dropping_drawn_tokens_is_caught(
    spec: str, target: Target, drafter: TableDrafter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: drawn tokens of low draft probability are not verified."""
    rejection = verify.rejection

    def dropping(
        tree: DraftTree, probs: Tensor, distributions: Tensor | None, uniform: Callable[[], float]
    ) -> verify.SampledPath:
        likely = tree.log_probs > math.log(0.25)
        return rejection(replace(tree, valid=tree.valid & likely), probs, distributions, uniform)

    monkeypatch.setattr(verify, "rejection", dropping)
    texts = say(target, drafter, get_policy(spec), PLAIN, num_texts=100)
    assert distance(target, texts, PLAIN) > 12
