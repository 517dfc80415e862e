"""The distributional predictor: its labels, and that both its forms say the same."""

import pytest
import torch
from torch.nn import functional as F

from adaeagle.identity import ModelIdentity
from adaeagle.testing.toy_trace import toy_trace
from adaeagle.trace.trace import Trace
from predictors.hazard import Hazard, chain_scalars
from predictors.hazard_steps import HazardSteps
from predictors.predictor import About, load_predictor

MODELS = ModelIdentity("t", "1", "d", "2", feature_size=6, vocab_size=50, dtype="float32")


def made(**settings: int) -> Hazard:
    torch.manual_seed(0)
    predictor = Hazard(**settings)
    predictor.prepare(About(MODELS), torch.randn(50, 6))
    predictor.scale.measure(torch.randn(100, 8) * 3 + 1)
    predictor.context.scale.measure(torch.randn(100, 6) * 2 - 1)
    return predictor.eval()


def test_steps_say_what_the_network_says() -> None:
    predictor = made(k_max=5, horizon=3, hidden_size=16)
    batch = {
        "features": torch.randn(7, 6),
        "token_ids": torch.randint(0, 50, (7,)),
        "last_token_ids": torch.randint(0, 50, (7,)),
        "log_probs": -torch.rand(7, 5) * 15,
        "draft_token_ids": torch.randint(0, 50, (7, 5)),
    }
    expected = predictor(batch).detach().sigmoid()
    found = HazardSteps(predictor).begin(batch["features"], batch["token_ids"])
    torch.testing.assert_close(torch.from_numpy(found.ahead), expected[:, 0, 1:])
    survival = torch.ones(7)
    for place in range(5):
        found = found.after(
            batch["log_probs"][:, place].numpy(), batch["draft_token_ids"][:, place].numpy()
        )
        survival = survival * expected[:, place + 1, 0]
        torch.testing.assert_close(torch.from_numpy(found.survival), survival)
        torch.testing.assert_close(torch.from_numpy(found.ahead), expected[:, place + 1, 1:])


def test_labels_follow_the_text() -> None:
    predictor = made(k_max=4, horizon=2)
    batch = {
        "accepted": torch.tensor([[True, True, False, False], [True, True, False, False]]),
        "num_known": torch.tensor([4, 2]),  # the second text ends after two tokens
    }
    labels, known = predictor.labels(batch)
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
    scalars = chain_scalars(torch.tensor([[-1.0, -3.0, -2.0]]))[0]
    assert scalars[:, 0].tolist() == [0, -1, -3, -2]
    assert scalars[:, 2].tolist() == [0, -1, -4, -6]
    assert scalars[:, 4].tolist() == [0, 0, -1, -3]
    assert scalars[:, 5].tolist() == [0, -1, -3, -3]
    assert scalars[:, 6].tolist() == [0, 1, 2, 3]


def test_it_learns_a_law_and_comes_back_from_disk(tmp_path) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(1)
    lengths = [torch.randint(0, 2, (60,), generator=generator) * 4 for _ in range(6)]
    features = [torch.stack([length.float()] * 6, dim=1) + 0.1 for length in lengths]
    texts = toy_trace([length.tolist() for length in lengths], k_max=6, features=features)
    trace = Trace(texts, 50)
    predictor = made(k_max=6, horizon=3, hidden_size=16)
    predictor.prepare(About(MODELS), torch.randn(50, 6))
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
    assert isinstance(again, Hazard)
    torch.testing.assert_close(again(batch), predictor(batch).detach())
    assert float(again.get_buffer("num_accepted").sum()) == pytest.approx(1)


def test_one_class_is_refused() -> None:
    predictor = made(k_max=2)
    batch = {"accepted": torch.ones(4, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match="both classes"):
        predictor.measure(batch)


def test_features_that_are_no_numbers_are_refused() -> None:
    steps = HazardSteps(made(k_max=2))
    features = F.pad(torch.full((1, 1), torch.nan), (0, 5))
    with pytest.raises(ValueError, match="features must be finite"):
        steps.begin(features, torch.tensor([1]))
