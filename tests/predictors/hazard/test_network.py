"""The distributional predictor: its labels, and that it scores live drafts as in training."""

from typing import Any

import pytest
import torch

from adaeagle.identity import ModelIdentity
from adaeagle.policy import Context
from adaeagle.replay.expected import acceptance_chances
from adaeagle.testing.toy_trace import toy_trace
from adaeagle.trace.trace import Trace
from adaeagle.tree import DraftTree, Level
from predictors.base import Metadata, load_predictor
from predictors.data.suffix_match import echoes, repeats
from predictors.hazard.network import NUM_SCALARS, HazardPredictor, chain_scalars

MODELS = ModelIdentity("t", "1", "d", "2", feature_size=6, vocab_size=50, dtype="float32")


def made(**settings: Any) -> HazardPredictor:
    torch.manual_seed(0)
    predictor = HazardPredictor(**settings)
    predictor.prepare(Metadata(MODELS), torch.randn(50, 6))
    predictor.scale.measure(torch.randn(100, NUM_SCALARS) * 3 + 1)
    predictor.context.scale.measure(torch.randn(100, 6) * 2 - 1)
    return predictor.eval()


def test_live_drafts_are_scored_as_in_training() -> None:
    predictor = made(k_max=5, horizon=3, hidden_size=16)
    batch = {
        "features": torch.randn(7, 6),
        "token_ids": torch.randint(0, 50, (7,)),
        "last_token_ids": torch.randint(0, 50, (7,)),
        "log_probs": -torch.rand(7, 5) * 15,
        "draft_token_ids": torch.randint(0, 50, (7, 5)),
    }
    # Texts that loop, of 1 to 7 tokens, and drafts that go along for so many of theirs.
    recent = [[place % period for place in range(20)] for period in range(1, 8)]
    found = repeats(recent, 5)
    lengths = torch.tensor([repeat.length for repeat in found])
    following = torch.tensor([repeat.following for repeat in found])
    assert lengths.tolist() == [19, 18, 17, 16, 15, 14, 13]
    goes_along = torch.arange(5) < torch.arange(7).unsqueeze(1)
    batch["draft_token_ids"][2, 2:] = torch.tensor([40, 0, 1])  # which knows the text, elsewhere
    said = torch.where(goes_along, following, batch["draft_token_ids"])
    batch |= {
        "draft_token_ids": said,
        "repeated": lengths,
        "following": following,
        "echoes": torch.tensor([*map(echoes, found, said.tolist())]),
    }
    assert {0, 1, 2, 6} <= set(batch["echoes"].flatten().tolist())
    expected = predictor(batch).detach().sigmoid()
    ids = batch["token_ids"]
    context = Context(
        0, ids + 9, ids + 99, ids, batch["last_token_ids"], batch["features"], lambda n: recent
    )
    chain, one_by_one = DraftTree.empty(7, "cpu"), predictor.scorer()
    one_by_one.begin(context)
    for place in range(5):
        new_ids, log_probs = (
            column[:, place].view(7, 1, 1) for column in (said, batch["log_probs"])
        )
        chain = chain.grow(Level(torch.full((7, 1), place - 1), new_ids, log_probs))
        one_by_one.score(chain)
        ahead = torch.tensor([one_by_one.latest(row)[0].ahead for row in range(7)])
        torch.testing.assert_close(ahead, expected[:, place + 1, 1:])
    at_once = predictor.scorer()
    at_once.begin(context)
    at_once.score(chain)
    for scorer in (one_by_one, at_once):
        survival = torch.tensor([scorer.survival(row) for row in range(7)])
        torch.testing.assert_close(survival, expected[:, 1:, 0].cumprod(1))


def test_labels_follow_the_text() -> None:
    predictor = made(k_max=4, horizon=2)
    batch = {
        "accepted": torch.tensor([[True, True, False, False], [True, True, False, False]]),
        "num_known": torch.tensor([4, 2]),  # the second text ends after two tokens
    }
    labels, known = predictor.targets(batch)
    assert labels.shape == known.shape == (2, 5, 3)
    # After one drafted token: it is accepted, the next is, the one after that is not.
    assert labels[0, 1].tolist() == [1, 1, 0]
    assert known[0, 1].tolist() == [True, True, True]
    # After the rejected third: it is judged, what follows is not.
    assert labels[0, 3, 0] == 0
    assert known[0, 3].tolist() == [True, False, False]
    assert not known[0, 4].any()
    # Before drafting nothing was drafted to be judged.
    assert not known[:, 0, 0].any()
    # Beyond the text nothing is.
    assert known[1, 1].tolist() == [True, True, False]
    assert not known[1, 3:].any()


def test_scalars_are_cumulative() -> None:
    batch = {
        "log_probs": torch.tensor([[-1.0, -3.0, -2.0]] * 3),
        "draft_token_ids": torch.tensor([[4, 5, 6]] * 3),
        "repeated": torch.tensor([7, 7, 0]),
        "following": torch.tensor([[4, 9, 6], [4, 5, 6], [-1, -1, -1]]),
        "echoes": torch.tensor([[6, 0, 1], [6, 6, 6], [2, 3, 5]]),
    }
    scalars = chain_scalars(batch)
    assert scalars[0, :, 0].tolist() == [0, -1, -3, -2]
    assert scalars[0, :, 1].tolist() == [0, -1, -4, -6]
    assert torch.equal(scalars[..., 2:4], scalars[..., :2].exp())
    # A draft that has left what was said before does not come back to it.
    assert scalars[:, :, 4].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert torch.equal(scalars[..., 5], scalars[..., 4] * torch.tensor(8.0).log())
    assert scalars[0, :, 6].tolist() == [0, 1, 2, 3]
    assert scalars[:, :, 8].tolist() == [[0, 6, 0, 1], [0, 6, 6, 6], [0, 2, 3, 5]]
    assert scalars[2, :, 9:].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_it_learns_a_distribution_and_comes_back_from_disk(tmp_path) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(1)
    lengths = [torch.randint(0, 2, (60,), generator=generator) * 4 for _ in range(6)]
    features = [torch.stack([length.float()] * 6, dim=1) + 0.1 for length in lengths]
    texts = toy_trace([length.tolist() for length in lengths], k_max=6, features=features)
    trace = Trace(texts, 50)
    predictor = made(k_max=6, horizon=3, hidden_size=16)
    predictor.prepare(Metadata(MODELS), torch.randn(50, 6))
    examples = predictor.examples(trace, None)
    context = trace.positions.context(examples.rows, -1)
    assert context.features is not None
    batch = {
        **examples.columns,
        "features": context.features,
        "token_ids": context.token_ids,
        "last_token_ids": context.last_token_ids,
    }
    predictor.measure(batch)
    predictor.train()
    optimizer = torch.optim.Adam(predictor.parameters(), lr=0.01)
    for _ in range(200):
        loss = predictor.loss(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    predictor.eval()
    ahead = predictor(batch)[:, 0, 1].sigmoid().detach()  # of the first token
    accepted = batch["accepted"][:, 0]
    known = batch["num_known"] >= 1
    assert ahead[accepted & known].mean() > 0.95
    assert ahead[~accepted & known].mean() < 0.05
    predictor.save(tmp_path)
    again = load_predictor(tmp_path)
    assert isinstance(again, HazardPredictor)
    torch.testing.assert_close(again(batch), predictor(batch).detach())
    assert float(again.get_buffer("num_accepted").sum()) == pytest.approx(1)


def test_one_class_is_refused() -> None:
    predictor = made(k_max=2)
    batch = {"accepted": torch.ones(4, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match="both classes"):
        predictor.measure(batch)


def test_labels_of_drawn_tokens_are_chances_where_the_others_are_known() -> None:
    trace = Trace(toy_trace([[2, 1, 0, 3, 2, 1, 0]], k_max=4), 50)
    hard, soft = made(k_max=4, horizon=2), made(k_max=4, horizon=2, labels="drawn")
    batch, drawn = (each.examples(trace, None).columns for each in (hard, soft))
    (_, known), (labels, same) = hard.targets(batch), soft.targets(drawn)
    assert torch.equal(known, same)
    chances = acceptance_chances(trace, 4).low.float()
    torch.testing.assert_close(labels[:, 1, 0], chances[:, 0])  # the first token, drafted
    torch.testing.assert_close(labels[:, 1, 2], chances[:, 2])  # the third, looked ahead
    with pytest.raises(ValueError, match="labels must be 'accepted' or 'drawn', got 'paper'"):
        made(labels="paper")
