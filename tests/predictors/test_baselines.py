"""What is kept of scikit-learn's models says what they say."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from adaeagle.identity import ModelIdentity
from predictors.acceptance import boosting, logistic
from predictors.acceptance.base import AcceptancePredictor
from predictors.base import Batch, FittedPredictor, Predictor
from predictors.data.nodes import Nodes

MODELS = ModelIdentity("toy", "", "head", "", 4, 50, "float32")


def make_batch(num: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.rand(num, generator=generator).log()
    path = log_probs + 2 * torch.rand(num, generator=generator).log()
    chance = (log_probs + 0.3 * path).exp()
    return {
        "log_probs": log_probs,
        "path_log_probs": path,
        "entropies": 3 * torch.rand(num, generator=generator),
        "depths": torch.randint(1, 9, (num,), generator=generator).float(),
        "ranks": torch.randint(0, 3, (num,), generator=generator).float(),
        "accepted": torch.rand(num, generator=generator) < chance,
    }


def probs(predictor: Predictor, batch: Batch) -> torch.Tensor:
    assert isinstance(predictor, AcceptancePredictor)
    return predictor.batch_log_odds(batch).sigmoid()


@pytest.fixture
def fitted(random_predictor: Callable[..., Predictor]) -> Callable[[str], Predictor]:
    def fit(spec: str) -> Predictor:
        predictor = random_predictor(spec, MODELS)
        assert isinstance(predictor, FittedPredictor)
        predictor.fit(make_batch(900, 0), seed=3)
        return predictor

    return fit


@pytest.mark.parametrize(("num_trees", "max_depth"), [(1, 1), (20, 4), (5, 9)])
def test_boosting(num_trees: int, max_depth: int, fitted: Callable[[str], Predictor]) -> None:
    train, test = make_batch(900, 0), make_batch(300, 1)
    model = HistGradientBoostingClassifier(
        max_iter=num_trees, max_depth=max_depth, early_stopping=False, random_state=3
    )
    inputs = [Nodes.of_batch(each).scalars(*boosting.SCALARS).numpy() for each in (train, test)]
    model.fit(inputs[0], train["accepted"].numpy())
    found = probs(fitted(f"boosting(num_trees={num_trees}, max_depth={max_depth})"), test)
    expected = model.predict_proba(inputs[1])[:, 1]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    assert len(set(expected.round(3).tolist())) > 1


def test_logistic(fitted: Callable[[str], Predictor]) -> None:
    train, test = make_batch(900, 0), make_batch(300, 1)
    inputs = [Nodes.of_batch(each).scalars(*logistic.SCALARS).numpy() for each in (train, test)]
    mean, deviation = inputs[0].mean(0), inputs[0].std(0)
    scaled = [(each - mean) / deviation for each in inputs]
    model = LogisticRegression(C=0.1).fit(scaled[0], train["accepted"].numpy())
    expected = model.predict_proba(scaled[1])[:, 1]
    found = probs(fitted("logistic(strength=0.1)"), test)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_isotonic(fitted: Callable[[str], Predictor]) -> None:
    train, test = make_batch(900, 0), make_batch(300, 1)
    ends = torch.tensor([-50.0, 0.0])  # beyond all that was seen
    test = {name: torch.cat((each, each[:2])) for name, each in test.items()}
    test["log_probs"][-2:] = ends
    model = IsotonicRegression(out_of_bounds="clip")
    model.fit(train["log_probs"].exp().numpy(), train["accepted"].float().numpy())
    expected = model.predict(test["log_probs"].exp().numpy()).clip(1e-4, 1 - 1e-4)
    np.testing.assert_allclose(probs(fitted("isotonic"), test).numpy(), expected, atol=1e-4)


def test_isotonic_of_one_confidence(random_predictor: Callable[..., Predictor]) -> None:
    predictor = random_predictor("isotonic", MODELS)
    assert isinstance(predictor, FittedPredictor)
    batch = {**make_batch(100, 0), "log_probs": torch.full((100,), -0.5)}
    predictor.fit(batch, 0)
    share = batch["accepted"].float().mean()
    torch.testing.assert_close(probs(predictor, batch), share.expand(100), atol=1e-4, rtol=0)
