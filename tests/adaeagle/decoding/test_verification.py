"""Acceptance as pure functions; the sampled distribution by exact enumeration, with no sampling
noise.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations, product
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from adaeagle import DraftTree
from adaeagle.decoding import verification as verify
from adaeagle.tree import ancestors

# Of five tokens, what a node's children may be drawn from and what the target says: anything,
# nearly the same, no token in common, and processed distributions with fewer tokens than children.
DISTRIBUTIONS = {
    "random": ([0.1, 0.35, 0.05, 0.3, 0.2], [0.3, 0.1, 0.25, 0.15, 0.2]),
    "equal": ([0.1, 0.35, 0.05, 0.3, 0.2], [0.1, 0.35, 0.05, 0.3, 0.2]),
    "peaked draft": ([0.3, 0.1, 0.25, 0.15, 0.2], [0.96, 0.01, 0.01, 0.01, 0.01]),
    "disjoint": ([0.5, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.2, 0.5, 0.3]),
    "two tokens each": ([0.4, 0.6, 0.0, 0.0, 0.0], [0.0, 0.7, 0.3, 0.0, 0.0]),
    "certain target": ([0.0, 0.0, 1.0, 0.0, 0.0], [0.3, 0.1, 0.25, 0.15, 0.2]),
    "certain draft": ([0.3, 0.1, 0.25, 0.15, 0.2], [0.0, 0.0, 0.0, 1.0, 0.0]),
}


class Coin(float):
    """A uniform number that compares as told, and remembers the chance it was compared with."""

    says: bool
    chance: float

    def __le__(self, chance: float) -> bool:
        self.chance = min(chance, 1.0)
        return self.says

    __lt__ = __le__


Uniform = Callable[[], float]
T = TypeVar("T")


def outcomes(run: Callable[[Uniform], T]) -> Iterator[tuple[float, T]]:
    """Every outcome of a function of uniform numbers, with its probability."""
    scripts: list[list[bool]] = [[]]
    while scripts:
        script = scripts.pop()
        tossed: list[Coin] = []

        def toss(script: list[bool] = script, tossed: list[Coin] = tossed) -> float:
            coin = Coin(0.5)
            coin.says = script[len(tossed)] if len(tossed) < len(script) else True
            tossed.append(coin)
            return coin

        result = run(toss)
        weight = 1.0
        for place, coin in enumerate(tossed):
            if place >= len(script):
                scripts.append([*(c.says for c in tossed[:place]), False])
            weight *= coin.chance if coin.says else 1 - coin.chance
        if weight > 0:
            yield weight, result


def draws(distribution: list[float], count: int) -> Iterator[tuple[float, list[int]]]:
    """Every ordered draw without replacement.

    Once the distribution is used up, the rest in any order.
    """
    for tokens in permutations(range(len(distribution)), count):
        weight, left, num_free = 1.0, 1.0, len(distribution)
        for token in tokens:
            weight *= distribution[token] / left if left > 1e-9 else 1 / num_free
            left -= distribution[token]
            num_free -= 1
        if weight > 0:
            yield weight, list(tokens)


def distribution_of_one_token(
    target: list[float], children: list[int], draft: list[float] | None
) -> Tensor:
    """Of what is emitted after one node: an accepted child, or a token of the residual."""
    probs = torch.tensor(target)
    drafted = None if draft is None else torch.tensor(draft)
    distribution = torch.zeros(len(target), dtype=torch.float64)
    run = partial(verify.accept_child, probs, children, drafted)
    for weight, (index, _, residual) in outcomes(run):
        if index is None:
            distribution += weight * residual.double()
        else:
            distribution[children[index]] += weight
    return distribution


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("distributions", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_drawn_children_keep_the_distribution(
    distributions: tuple[list[float], list[float]], count: int
) -> None:
    target, draft = distributions
    distribution = torch.zeros(5, dtype=torch.float64)
    for weight, children in draws(draft, count):
        distribution += weight * distribution_of_one_token(target, children, draft)
    torch.testing.assert_close(distribution, torch.tensor(target).double(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("children", [[0], [3], [1, 0], [2, 4, 1], [4, 3, 2, 1, 0]])
@pytest.mark.parametrize("distributions", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_fixed_children_keep_the_distribution(
    distributions: tuple[list[float], list[float]], children: list[int]
) -> None:
    target, _ = distributions
    distribution = distribution_of_one_token(target, children, None)
    torch.testing.assert_close(distribution, torch.tensor(target).double(), atol=2e-6, rtol=0)


@pytest.mark.parametrize("distributions", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_nothing_outside_the_target_is_emitted(
    distributions: tuple[list[float], list[float]],
) -> None:
    """Even where every child falls though their chances add up to 1: rounding decides that."""
    target, draft = torch.tensor(distributions[0]), torch.tensor(distributions[1])
    for children in permutations(range(5), 4):
        for drafted in (None, draft):
            index, _, residual = verify.accept_child(target, children, drafted, lambda: math.inf)
            assert index is None
            assert float(residual.sum()) == pytest.approx(1)
            assert not residual[target == 0].any()


def test_dropping_drawn_children_breaks_the_distribution() -> None:
    """The negative control, by hand: draft (.5 .3 .2), target (.2 .3 .5).

    Leaving out drawn tokens of draft probability under .25 makes it (.24 .36 .40): with chance .2
    the last token is drawn and dropped, and what follows is the target's own distribution.
    """
    target, draft = [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]
    distribution = torch.zeros(3, dtype=torch.float64)
    for weight, children in draws(draft, 1):
        kept = [token for token in children if draft[token] >= 0.25]
        distribution += weight * (
            distribution_of_one_token(target, kept, draft)
            if kept
            else torch.tensor(target).double()
        )
    expected = torch.tensor([0.24, 0.36, 0.40], dtype=torch.float64)
    torch.testing.assert_close(distribution, expected, atol=1e-6, rtol=0)


def make_tree(
    tokens: list[int], parents: list[int], depths: list[int], origins: list[int]
) -> DraftTree:
    zeros = torch.zeros(1, len(tokens))
    return DraftTree(
        token_ids=torch.tensor([tokens]),
        parents=torch.tensor([parents]),
        depths=torch.tensor([depths]),
        log_probs=zeros,
        path_log_probs=zeros,
        ranks=zeros.long(),
        valid=torch.ones_like(zeros, dtype=torch.bool),
        origins=torch.tensor([origins]),
        num_levels=max(depths),
    )


def test_joint_distribution_of_a_drawn_tree() -> None:
    """Two children of the root, and two of each of them, over three tokens.

    The first token follows the target's distribution; so does the second wherever a round emits
    one.
    """
    torch.manual_seed(0)
    target = torch.randn(4, 3).softmax(-1)  # row 0 after the root, row 1 + t after token t
    draft = torch.randn(4, 3).softmax(-1)
    first = torch.zeros(3, dtype=torch.float64)
    second = torch.zeros(3, 3, dtype=torch.float64)
    for chance, roots in draws(draft[0].tolist(), 2):
        below = [list(draws(draft[1 + token].tolist(), 2)) for token in roots]
        for (chance_a, under_a), (chance_b, under_b) in product(*below):
            tokens = [*roots, *under_a, *under_b]
            tree = make_tree(tokens, [-1, -1, 0, 0, 1, 1], [1, 1, 2, 2, 2, 2], [0, 0, 1, 1, 2, 2])
            probs = target[[0, *(1 + token for token in tokens)]]
            distributions = draft[[0, 1 + roots[0], 1 + roots[1]]]
            for weight, found in outcomes(partial(verify.rejection, tree, probs, distributions)):
                weight *= chance * chance_a * chance_b
                said = [tokens[row] for row in found.rows]
                bonus = weight * found.bonus_probs.double()
                if not said:
                    first += bonus
                else:
                    first[said[0]] += weight
                if len(said) == 1:
                    second[said[0]] += bonus
                elif said:
                    second[said[0], said[1]] += weight
    torch.testing.assert_close(first, target[0].double(), atol=5e-6, rtol=0)
    second /= second.sum(1, keepdim=True)
    torch.testing.assert_close(second, target[1:].double(), atol=5e-6, rtol=0)


def test_what_was_tested() -> None:
    """Nodes tried, in order: siblings up to the accepted one, and nothing below a rejected one."""
    tree = make_tree([0, 1, 2, 3], [-1, -1, 0, 1], [1, 1, 2, 2], [0, 0, 1, 2])
    probs = torch.full((5, 4), 0.25)
    answers = iter([0.9, 0.1, 0.9])
    found = verify.rejection(tree, probs, None, lambda: next(answers))
    assert (found.rows, found.tested) == ([1], [0, 1, 3])
    assert found.bonus_probs[3] == 0


def test_padding_is_not_tried() -> None:
    tree = make_tree([0, 1], [-1, -1], [1, 1], [0, 0])
    tree.valid[0, 1] = False
    answers = iter([0.9])
    found = verify.rejection(tree, torch.full((3, 2), 0.5), None, lambda: next(answers))
    assert (found.rows, found.tested) == ([], [0])
    assert found.bonus_probs.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("said", "accepted"),
    [
        ([7, 0, 0, 0, 0, 0], []),  # the target says what nobody drafted
        ([4, 9, 0, 0, 0, 0], [0]),
        ([4, 6, 0, 0, 0, 0], [0, 2]),
        ([5, 0, 8, 0, 0, 0], [1, 3]),
        ([5, 0, 8, 0, 9, 0], [1, 3, 4]),
        ([4, 8, 8, 9, 9, 9], [0]),  # row 3 is right after row 1 only
    ],
)
def test_greedy(said: list[int], accepted: list[int]) -> None:
    tree = make_tree([4, 5, 6, 8, 9], [-1, -1, 0, 1, 3], [1, 1, 2, 2, 3], [0, 0, 1, 2, 3])
    found = verify.greedy(tree, ancestors(tree), torch.tensor([said]))
    assert found[0].nonzero().flatten().tolist() == accepted


def test_greedy_leaves_padding_out() -> None:
    tree = make_tree([4, 4], [-1, -1], [1, 1], [0, 0])
    tree.valid[0, 1] = False
    found = verify.greedy(tree, ancestors(tree), torch.tensor([[4, 0, 0]]))
    assert found.tolist() == [[True, False]]
