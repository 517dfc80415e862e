"""What rules ask in NumPy is what the networks say."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaeagle.identity import ModelIdentity
from adaeagle.policy import Context
from adaeagle.tree import DraftTree, Level
from predictors.acceptance.base import AcceptancePredictor
from predictors.acceptance.scorer import TorchOdds
from predictors.base import Predictor, TrainedPredictor
from predictors.data.nodes import Nodes
from predictors.layers.in_numpy import log_sigmoid, silu
from predictors.length.ldlp import LengthPredictor
from predictors.length.steps import TorchLengths

Random = Callable[..., Predictor]
NUM_ROUNDS, D, V = 3, 16, 40
MODELS = ModelIdentity("t", "t", "d", "d", D, V, "float32")


def context(num_rounds: int = NUM_ROUNDS) -> Context:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(V, (2, num_rounds), generator=generator)
    ones = torch.ones(num_rounds, dtype=torch.int64)
    features = 3 + 2 * torch.randn(num_rounds, D, generator=generator)
    return Context(1, 9 * ones, 99 * ones, ids[0], ids[1], features)


def tree(num_levels: int = 4, num_rounds: int = NUM_ROUNDS) -> DraftTree:
    """Two children of every node; among them is one that cannot be."""
    generator = torch.Generator().manual_seed(2)
    found = DraftTree.empty(num_rounds, "cpu")
    rows = torch.full((num_rounds, 1), -1)
    for _ in range(num_levels):
        shape = rows.shape
        distributions = (
            torch.randn(*shape, 12, generator=generator).log_softmax(-1).sort(-1).values.flip(-1)
        )
        distributions[..., -1] = -torch.inf
        found = found.grow(
            Level(
                rows,
                torch.arange(2).expand(*shape, 2),
                distributions[..., :2],
                entropies=3 * torch.rand(shape, generator=generator),
                confidences=distributions[..., 2:],
            )
        )
        rows = torch.arange(len(found) - 2 * shape[1], len(found)).expand(num_rounds, -1)
    return found


def chain(length: int) -> DraftTree:
    """Of one text, from `tree`: its first child of every level."""
    grown, found = tree(length, 1), DraftTree.empty(1, "cpu")
    assert grown.entropies is not None
    assert grown.confidences is not None
    first = 0
    for level in range(length):
        here = slice(first, first + 1)
        found = found.grow(
            Level(
                torch.tensor([[level - 1]]),
                grown.token_ids[:, here, None],
                grown.log_probs[:, here, None],
                entropies=grown.entropies[:, here],
                confidences=grown.confidences[:, here],
            )
        )
        first += 2 ** (level + 1)
    return found


def trained(spec: str, random_predictor: Random) -> Predictor:
    """Random weights, and scales of inputs as training would leave them."""
    predictor = random_predictor(spec, MODELS)
    assert isinstance(predictor, TrainedPredictor)
    grown = tree()
    every = torch.arange(len(grown)).expand(NUM_ROUNDS, -1)
    nodes = Nodes.of_tree(grown, every)
    batch = {name: getattr(nodes, name).flatten(0, 1) for name in Nodes.__slots__}
    place = torch.arange(NUM_ROUNDS).repeat_interleave(len(grown))
    told = context()
    assert told.features is not None
    batch |= {
        "features": told.features[place],
        "accepted": torch.arange(len(place)) % 3 > 0,
        "length": torch.arange(len(place)) % 5,
    }
    predictor.measure(batch)
    return predictor


@pytest.mark.parametrize(
    "spec", ["specdec_pp", "specdec_pp(use_feature=False, hidden_size=9)", "disco(hidden_size=7)"]
)
def test_odds(spec: str, random_predictor: Random) -> None:
    predictor = trained(spec, random_predictor)
    assert isinstance(predictor, AcceptancePredictor)
    asked, expected = predictor.odds(), TorchOdds(predictor)
    assert type(asked) is not TorchOdds
    for odds in (asked, expected):
        odds.begin(context())
    for start in (0, 14):
        found = asked.of(tree(), start)
        assert found.shape == (NUM_ROUNDS, 30 - start)
        np.testing.assert_allclose(found, expected.of(tree(), start), rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1


@pytest.mark.parametrize(
    "spec",
    [
        "specdec_pp(hidden_size=20)",
        "specdec_pp(use_feature=False, hidden_size=9, num_blocks=0)",
        "specdec_pp(hidden_size=9, num_blocks=0)",
        "disco(hidden_size=7)",
    ],
)
def test_odds_of_one_text_s_chain(spec: str, random_predictor: Random) -> None:
    """Two rounds, since what is known of a round's context must not stay for the next."""
    predictor = trained(spec, random_predictor)
    assert isinstance(predictor, AcceptancePredictor)
    asked, expected = predictor.odds(), TorchOdds(predictor)
    whole = context(2)
    assert whole.features is not None
    told = []
    for place in range(2):
        features = whole.features[place : place + 1]
        one = replace(context(1), features=features)
        asked.begin(one)
        expected.begin(one)
        for length in (1, 2, 5):
            drafted = chain(length)
            found = asked.of_newest(drafted)
            assert found == pytest.approx(expected.of_newest(drafted), rel=1e-4, abs=1e-4)
            assert found == pytest.approx(asked.of(drafted, length - 1).item(), rel=1e-4, abs=1e-4)
            told.append(found)
    assert np.std(told) > 0.05


def test_scores_of_c2t(random_predictor: Random) -> None:
    predictor = trained("c2t", random_predictor)
    assert isinstance(predictor, C2TPredictor)
    grown = tree()
    nodes = Nodes.of_tree(grown, torch.arange(len(grown)).expand(NUM_ROUNDS, -1))
    expected = predictor.log_odds(nodes).detach()
    found = predictor.scores().of(grown, 0)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spec", ["ldlp(use_pending=True)", "ldlp(use_embedding=False)", "ldlp_class(hidden_size=8)"]
)
def test_lengths(spec: str, random_predictor: Random) -> None:
    predictor = trained(spec, random_predictor)
    assert isinstance(predictor, LengthPredictor)
    asked = predictor.asked()
    assert not isinstance(asked, TorchLengths)
    found, expected = asked(context(20)), TorchLengths(predictor)(context(20))
    assert found.shape == (20,)
    assert found.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spec",
    [
        "ldlp(hidden_size=20, use_pending=True)",
        "ldlp(use_embedding=False, hidden_size=9, num_blocks=0)",
        "ldlp_class(hidden_size=20, num_blocks=1)",
    ],
)
def test_lengths_of_one_text(spec: str, random_predictor: Random) -> None:
    predictor = trained(spec, random_predictor)
    assert isinstance(predictor, LengthPredictor)
    many = context(20)
    assert many.features is not None
    expected, asked = TorchLengths(predictor)(many), predictor.asked()
    for row in range(20):
        own = slice(row, row + 1)
        one = Context(
            round=1,
            num_tokens=many.num_tokens[own],
            remaining=many.remaining[own],
            token_ids=many.token_ids[own],
            last_token_ids=many.last_token_ids[own],
            features=many.features[own],
        )
        np.testing.assert_allclose(asked(one), expected[own], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_rounds", [1, NUM_ROUNDS])
@pytest.mark.parametrize("spec", ["specdec_pp", "ldlp"])
def test_features_that_do_not_fit(spec: str, num_rounds: int, random_predictor: Random) -> None:
    predictor = trained(spec, random_predictor)
    if isinstance(predictor, LengthPredictor):
        ask: Callable[[Context], object] = predictor.asked()
    else:
        assert isinstance(predictor, AcceptancePredictor)
        ask = predictor.odds().begin
    for features, message in (
        (None, f"features must be given to predictor {spec}, got none"),
        (torch.zeros(num_rounds, D + 1), f"features of predictor {spec} must be of size {D}"),
        (torch.full((num_rounds, D), torch.nan), "features must be finite, got NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(replace(context(num_rounds), features=features))


def test_functions_far_out() -> None:
    """No overflow, which would warn."""
    far = np.array([-1e4, -90.0, -1.0, 0.0, 1.0, 90.0, 1e4], dtype=np.float32)
    same = torch.from_numpy(far)
    np.testing.assert_allclose(silu(far), torch.nn.functional.silu(same), atol=1e-6)
    np.testing.assert_allclose(log_sigmoid(far), torch.nn.functional.logsigmoid(same), atol=1e-6)
