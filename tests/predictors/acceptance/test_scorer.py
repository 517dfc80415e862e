"""What rules learn of trained predictors, for rounds side by side and for one alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from adaeagle.identity import ModelIdentity
from adaeagle.policy import Context
from adaeagle.tree import DraftTree, Level
from predictors.acceptance.base import NodePredictor
from predictors.base import Predictor, TrainedPredictor
from predictors.data.nodes import Nodes
from predictors.length.ldlp import LengthPredictor

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


def one_of(context: Context, row: int) -> Context:
    """One round alone."""
    own = slice(row, row + 1)
    assert context.features is not None
    return Context(
        round=1,
        num_tokens=context.num_tokens[own],
        remaining=context.remaining[own],
        token_ids=context.token_ids[own],
        last_token_ids=context.last_token_ids[own],
        features=context.features[own],
    )


@pytest.mark.parametrize(
    "spec",
    [
        "specdec_pp",
        "specdec_pp(use_feature=False, hidden_size=9)",
        "specdec_pp(hidden_size=9, num_blocks=0)",
        "disco(hidden_size=7)",
        "c2t",
    ],
)
def test_odds_of_rounds_side_by_side_are_those_of_rounds_alone(
    spec: str, random_predictor: Random
) -> None:
    """And of any nodes in any order; what is known of a context does not stay for the next."""
    predictor = trained(spec, random_predictor)
    assert isinstance(predictor, NodePredictor)
    scorer, grown = predictor.scorer(), tree()
    scorer.begin(context())
    every = torch.arange(len(grown)).expand(NUM_ROUNDS, -1)
    found = scorer.log_odds(grown, every)
    assert found.shape == (NUM_ROUNDS, 30)
    assert found.std() > 0.05
    some = torch.tensor([[5, 3], [0, 29], [7, 7]])
    torch.testing.assert_close(scorer.log_odds(grown, some), found.gather(1, some))
    for row in range(NUM_ROUNDS):
        scorer.begin(one_of(context(), row))
        alone = scorer.log_odds(grown.row(row), every[:1])
        torch.testing.assert_close(alone, found[row : row + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spec",
    [
        "ldlp(hidden_size=20, use_pending=True)",
        "ldlp(use_embedding=False, hidden_size=9, num_blocks=0)",
        "ldlp_class(hidden_size=20, num_blocks=1)",
    ],
)
def test_lengths_side_by_side_are_lengths_alone(spec: str, random_predictor: Random) -> None:
    predictor = trained(spec, random_predictor)
    assert isinstance(predictor, LengthPredictor)
    many, scorer = context(20), predictor.scorer()
    found = scorer(many)
    assert found.shape == (20,)
    assert found.std() > 0.1
    for row in range(20):
        alone = scorer(one_of(many, row))
        torch.testing.assert_close(alone, found[row : row + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_rounds", [1, NUM_ROUNDS])
@pytest.mark.parametrize("spec", ["specdec_pp", "ldlp"])
def test_features_that_do_not_fit(spec: str, num_rounds: int, random_predictor: Random) -> None:
    predictor = trained(spec, random_predictor)
    if isinstance(predictor, LengthPredictor):
        ask: Callable[[Context], object] = predictor.scorer()
    else:
        assert isinstance(predictor, NodePredictor)
        ask = predictor.scorer().begin
    for features, message in (
        (None, f"features must be given to predictor {spec}, got none"),
        (torch.zeros(num_rounds, D + 1), f"features of predictor {spec} must be of size {D}"),
        (torch.full((num_rounds, D), torch.nan), "features must be finite, got NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(replace(context(num_rounds), features=features))
