"""Rules over texts side by side: what they choose, and that no text's distribution changes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from adaeagle import get_policy
from adaeagle.cost.model import CostModel
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.round import Drafted, draft_round
from adaeagle.policy import Budget, Context, Outcome, Policy
from adaeagle.tree import DraftTree, Level
from policies import BatchSelect, BatchSlots, BatchTable, Chain, Goodput
from policies.support.batch_rounds import AcceptanceRate, BatchSeconds, best_length

MakeTree = Callable[..., DraftTree]
MakeChain = Callable[..., DraftTree]
CPU = torch.device("cpu")
DEAR = CostModel.linear(constant=0.1, draft=0.1, verify=1.0, node=9.0)  # nodes never pay
CHEAP = CostModel.linear(constant=0.1, draft=0.001, verify=1.0, node=0.001)  # they always do


def context(num_texts: int, remaining: int = 99) -> Context:
    ones = torch.ones(num_texts, dtype=torch.int64)
    return Context(0, ones * 50, ones * remaining, ones, ones)


class Drawn:
    """Proposes given draws: of each text and level a token, from a distribution of the one before.

    Args:
        tables: [P, V, V] the draft's, by the token before.
        tokens: [P][K] the draws.
        is_drawn: whether the rule is told that they are draws.
    """

    max_depth = None

    def __init__(
        self, tables: Tensor, tokens: Sequence[Sequence[int]], is_drawn: bool = True
    ) -> None:
        self._tables, self._tokens, self.is_drawn = tables, torch.tensor(tokens), is_drawn

    def propose(
        self, tree: DraftTree, rows: Tensor, num_ranks: int, num_children: Tensor | None = None
    ) -> Level:
        level, texts = tree.num_levels, torch.arange(len(self._tokens))
        before = self._tokens[:, level - 1] if level else torch.zeros_like(texts)
        tokens = self._tokens[:, level]
        log_probs = self._tables[texts, before, tokens].log().view(-1, 1, 1).float()
        return Level(rows, tokens.view(-1, 1, 1), log_probs, num_children)


def tables(num_texts: int, vocab_size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(num_texts, vocab_size, vocab_size, generator=generator)
    return logits.double().softmax(-1)


def emitted(
    target: Tensor, draft: Tensor, tokens: Sequence[int], before: int, num_left: int
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Texts of `num_left` tokens and their chances, by speculative sampling of a drafted chain.

    Args:
        target: [V, V].
        draft: [V, V].
        tokens: drafted, of which all are verified.
        before: the token in front of them.
        num_left: tokens of each text; what a round does not emit the target goes on with.
    """
    if num_left == 0:
        yield (), 1.0
        return
    rejected, bonus = 1.0, target[before]
    if tokens:
        token = tokens[0]
        accepted = min(1.0, float(target[before, token] / draft[before, token]))
        for rest, chance in emitted(target, draft, tokens[1:], token, num_left - 1):
            yield (token, *rest), accepted * chance
        rejected, bonus = 1 - accepted, (target[before] - draft[before]).clamp(min=0)
    if rejected <= 0:
        return
    bonus = bonus / bonus.sum()
    for token in range(len(bonus)):
        for rest, chance in emitted(target, draft, (), token, num_left - 1):
            yield (token, *rest), rejected * float(bonus[token]) * chance


def deviation(policy: Policy, is_drawn: bool = True) -> float:
    """The greatest difference between a text's exact distribution and the target's.

    Two texts, three tokens, every draw of chains of two: the shared rule sees both texts' draws.
    """
    vocab_size, num_texts, depth = 3, 2, 2
    target, draft = tables(num_texts, vocab_size, 0), tables(num_texts, vocab_size, 1)
    length = depth + 1
    found = [dict.fromkeys(product(range(vocab_size), repeat=length), 0.0) for _ in range(2)]
    for draws in product(product(range(vocab_size), repeat=depth), repeat=num_texts):
        weight = 1.0
        for text, tokens in enumerate(draws):
            for before, token in zip((0, *tokens), tokens, strict=False):
                weight *= float(draft[text, before, token])
        policy.reset()
        proposer = Drawn(draft, draws, is_drawn)
        done = draft_round(policy, proposer, context(num_texts, depth + 1), RoundClock(CPU))
        for text, tokens in enumerate(draws):
            kept = tokens[: int(done.keep[text].sum())]
            for words, chance in emitted(target[text], draft[text], kept, 0, length):
                found[text][words] += weight * chance
    errors = []
    for text, chances in enumerate(found):
        for words, chance in chances.items():
            pairs = zip((0, *words), words, strict=False)
            expected = torch.stack([target[text, one, next_] for one, next_ in pairs]).prod()
            errors.append(abs(chance - float(expected)))
    return max(errors)


RULES = (
    lambda: BatchTable([[1, 2]]),
    lambda: BatchSlots(length=2, total=1),
    lambda: BatchSlots(length=2, total=2),
    lambda: BatchSlots(length=2, total=3, floor=1.4),
    lambda: BatchSlots(length=2, cost=CostModel.linear(constant=0, draft=0.1, verify=1, node=0.3)),
    lambda: Goodput(length=2, cost=CHEAP),
)


@pytest.mark.parametrize("make", RULES)
def test_every_text_keeps_its_distribution(make: Callable[[], Policy]) -> None:
    assert deviation(make()) < 1e-6


@pytest.mark.parametrize("total", [1, 2, 3])
def test_leaving_out_drawn_tokens_by_their_own_probability_is_caught(total: int) -> None:
    """The negative control: TETRIS' rule on tokens that were drawn."""
    leaking = BatchSelect(Chain(length=2, proposal="top_k"), total=total)
    assert deviation(leaking, is_drawn=False) > 1e-3
    assert deviation(leaking, is_drawn=True) < 1e-6  # told so, the round verifies all of them


class Stopped(Policy):
    """A budget of two tokens, left where the drawn token is unlikely: the token itself is kept."""

    scope = "batch"
    proposal = "draw"

    def plan(self, context: Context) -> Budget:
        return Budget(depth=2)

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        return tree.valid & (tree.path_log_probs >= tree.path_log_probs.amax(0, keepdim=True))


def test_a_budget_that_goes_to_the_likelier_draw_is_caught() -> None:
    assert deviation(Stopped(), is_drawn=False) > 1e-3


def test_policies_that_draw_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have proposal='top_k'.* got 'draw' of Chain"):
        BatchSelect(Chain(length=3), total=4)
    with pytest.raises(ValueError, match="one of total and cost must be given"):
        get_policy("batch_slots")


def test_the_likeliest_nodes_of_all_texts(make_tree: MakeTree) -> None:
    tree = make_tree(4, seed=3)
    budget = Budget(depth=4, width=3)
    rule = BatchSelect(get_policy("eagle2(depth=4, width=3, nodes=60)"), total=11)
    kept = rule.select(tree, budget)
    ranked = tree.path_log_probs[tree.valid].sort(descending=True).values
    assert int(kept.sum()) == 11
    assert tree.path_log_probs[kept].sort(descending=True).values.equal(ranked[:11])
    with_floor = BatchSelect(rule.policy, total=11, floor=1.8)
    for text, chosen in enumerate(with_floor.select(tree, budget)):
        probs = tree.path_log_probs[text].exp()
        assert float(probs[chosen].sum()) >= min(0.8, float(probs[tree.valid[text]].sum())) - 1e-6
    assert int(with_floor.select(tree, budget).sum()) == 11


@pytest.mark.parametrize("node", [0.0, 0.02, 0.1, 0.3, 9.0])
def test_as_many_nodes_as_make_the_most_tokens_a_second(node: float, make_tree: MakeTree) -> None:
    tree = make_tree(3, seed=1)
    cost = CostModel.linear(constant=0.0, draft=0.0, verify=1.0, node=node)
    rule = BatchSelect(get_policy("eagle2(depth=4, width=3, nodes=60)"), cost=cost)
    rule.plan(context(3))
    kept = rule.select(tree, Budget(depth=4, width=3))
    ranked = tree.path_log_probs[tree.valid].exp().sort(descending=True).values.tolist()
    # Two texts beside the first cost a node each.
    rates = [(3 + sum(ranked[:n])) / (1 + node * (n + 2)) for n in range(len(ranked) + 1)]
    assert int(kept.sum()) == rates.index(max(rates))
    if node == 9.0:
        assert not kept.any()


@pytest.mark.parametrize("rate", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("node", [0.0, 0.05, 0.4])
def test_the_best_length(rate: float, node: float) -> None:
    limits = [5, 2, 0]
    seconds = BatchSeconds([0.1 * level for level in range(6)], [1 + node * n for n in range(16)])
    length, per_second = best_length(rate, limits, seconds)
    rates = []
    for depth in range(6):
        drafted = [min(limit, depth) for limit in limits]
        tokens = sum(rate**place for count in drafted for place in range(count + 1))
        rates.append(tokens / (0.1 * depth + 1 + node * sum(drafted)))
    assert length == rates.index(max(rates))
    assert per_second == pytest.approx(max(rates))


def drafted_by(policy: Policy, num_texts: int, sure: Sequence[float], depth: int = 6) -> Drafted:
    """A round in which each text's drafted tokens all have one probability."""
    table = torch.tensor(sure).view(-1, 1, 1).expand(-1, 2, 2)
    draws = [[1] * depth] * num_texts
    policy.reset()
    return draft_round(policy, Drawn(table, draws), context(num_texts), RoundClock(CPU))


def test_slots_go_to_the_surer_texts() -> None:
    done = drafted_by(BatchSlots(length=6, total=7), 3, (0.99, 0.3, 0.9))
    counts = done.keep.sum(1).tolist()
    assert sum(counts) == 7
    assert counts[0] >= counts[2] > counts[1]
    with_floor = drafted_by(BatchSlots(length=6, total=3, floor=1.25), 3, (0.99, 0.3, 0.9))
    assert with_floor.keep.sum(1).min() >= 1


@pytest.mark.parametrize("rule", [Goodput, BatchSlots])
def test_nothing_is_drafted_where_nothing_pays(rule: type[Policy]) -> None:
    dear, cheap = (rule(length=6, cost=cost) for cost in (DEAR, CHEAP))
    assert len(drafted_by(dear, 4, (0.9,) * 4).tree) == 0
    assert drafted_by(cheap, 4, (0.99,) * 4).keep.sum() > 12


def test_the_table() -> None:
    rule = BatchTable([[2, 4], [4, 1], [8, 0]])
    lengths = [rule.plan(context(num_texts)).depth for num_texts in (1, 2, 3, 4, 7, 8, 20)]
    assert lengths == [4, 4, 4, 1, 1, 0, 0]
    for wrong in ([], [[4, 1], [2, 3]], [[0, 1]], [[1, -1]]):
        with pytest.raises(ValueError, match="lengths must be"):
            BatchTable(wrong)


def test_the_rate_returns_to_where_it_began(
    make_chain: MakeChain, make_outcome: Callable[[DraftTree, Sequence[int]], Outcome]
) -> None:
    rate = AcceptanceRate(memory=0.9)
    began = rate.value
    outcome = make_outcome(make_chain([[0.5] * 4] * 3), [0, 0, 1])
    for _ in range(20):
        rate.observe(outcome)
    assert rate.value < 0.4
    nothing = replace(
        outcome,
        tested=torch.zeros_like(outcome.tested),
        accepted=torch.zeros_like(outcome.accepted),
    )
    for _ in range(60):
        rate.observe(nothing)
    assert rate.value == pytest.approx(began, abs=0.01)
