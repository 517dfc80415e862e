import pytest
import torch

from adaeagle.drafters.base import Drafter, DraftSession, Verified
from adaeagle.drafters.recycling import RecyclingDrafter, Update
from adaeagle.testing import DrafterContract
from adaeagle.tree import DraftTree, Level


def after(session: DraftSession, token_id: int) -> list[int]:
    """What is proposed after a token that was just decided."""
    found = session.catch_up(torch.tensor([[token_id]]), None, [1]).candidates
    assert found is not None
    return found.token_ids[0, 0, : int(found.num_children)].tolist()


def tree_of(levels: list[tuple[list[int], list[list[int]]]]) -> DraftTree:
    """A tree from its levels: parents, and the children of each."""
    tree = DraftTree.empty(1, "cpu")
    for parents, token_ids in levels:
        ids = torch.tensor([token_ids])
        tree = tree.grow(Level(torch.tensor([parents]), ids, torch.zeros(ids.shape)))
    return tree


def logits_of(orders: list[list[int]]) -> torch.Tensor:
    """[1, R, 6] logits with these best tokens, in order."""
    logits = torch.zeros(1, len(orders), 6)
    for row, order in enumerate(orders):
        for rank, token_id in enumerate(order):
            logits[0, row, token_id] = 10.0 - rank
    return logits


@pytest.mark.parametrize("update", ["all", "committed"])
def test_the_table_holds_what_the_target_found_likely(update: Update) -> None:
    session = RecyclingDrafter(num_kept=2, update=update).begin([[0]], 0)
    assert after(session, 1) == []
    # Below the root, token 1: 2 and 3; below 2: 3 again. Accepted is 2, and nothing behind it.
    tree = tree_of([([-1], [[2, 3]]), ([0], [[3]])])
    logits = logits_of([[2, 4], [5, 0], [0, 1], [4, 5]])
    session.verified(Verified(tree, [[0]], logits))
    assert after(session, 1) == [2, 4]
    assert after(session, 2) == [5, 0]
    assert after(session, 3) == ([4, 5] if update == "all" else [])  # the deeper row


def test_the_accepted_row_counts() -> None:
    session = RecyclingDrafter(num_kept=1).begin([[0]], 0)
    after(session, 1)
    # Token 2 stands below the root, where it is accepted, and below 3.
    tree = tree_of([([-1], [[2, 3]]), ([1], [[2]])])
    session.verified(Verified(tree, [[0]], logits_of([[2], [4], [5], [0]])))
    assert after(session, 2) == [4]


def test_rounds_that_drafted_nothing_teach_nothing() -> None:
    session = RecyclingDrafter().begin([[0]], 0)
    after(session, 1)
    session.verified(Verified(DraftTree.empty(1, "cpu"), [[]], logits_of([[3]])))
    assert after(session, 1) == []


class TestRecycling(DrafterContract):
    @pytest.fixture(params=["all", "committed"])
    def drafter(self, request: pytest.FixtureRequest) -> Drafter:
        return RecyclingDrafter(num_kept=4, update=request.param)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_kept": 0}, "num_kept must be >= 1"), ({"update": "none"}, "update must be one of")],
)
def test_what_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecyclingDrafter(**arguments)  # type: ignore[arg-type]
