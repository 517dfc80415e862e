"""What a profile says it measured is what ran, and each second is booked to the part it was in."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from adaeagle import Target
from adaeagle.cost.batches import of_each
from adaeagle.cost.grid import SPAN, Grid, Shape, least_depth
from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.cost.profiler import Profiler, RoundTimes, TextTimes
from adaeagle.cost.tally import Tally, steadied
from adaeagle.drafters.base import Proposal
from adaeagle.drafters.eagle import EagleDrafter, EagleSession
from adaeagle.models.target import TargetSession
from adaeagle.tree import DraftTree, ExtraRows

GRID = Grid(contexts=(60, 200), widths=(1, 4), nodes=(1, 4, 9), lengths=(0, 1, 3))
NUM_TEXTS = 14
PARTS = ("first", "second", "next", "verify", "other")


@pytest.fixture
def profiler(make_pair: Any, make_prompt: Callable[..., list[int]]) -> Profiler:
    target, drafter = make_pair("eagle")
    return Profiler(target, drafter, GRID, [make_prompt(9, 0), make_prompt(300, 1)])


def tallied(grid: Grid, texts: list[TextTimes]) -> Tally:
    tally = Tally(grid)
    for text in texts:
        tally.add(text)
    return tally


def shapes_of(rounds: list[RoundTimes], contexts: list[int]) -> RoundShapes:
    longest = max(len(found.widths) for found in rounds)
    widths = [[*found.widths, *(longest - len(found.widths)) * [0]] for found in rounds]
    return RoundShapes(
        torch.tensor(contexts),
        torch.tensor(widths),
        torch.tensor([found.nodes for found in rounds]),
        torch.tensor([found.is_tree for found in rounds]),
        torch.tensor([found.caught_up for found in rounds]),
    )


def test_every_cell_is_measured_and_adds_up(profiler: Profiler) -> None:
    texts = list(islice(profiler.texts(), NUM_TEXTS))
    tally = tallied(GRID, texts)
    assert tally.share(1) == 1
    model = tally.model({"who": "a test"})
    for table in (
        *(getattr(parts, name) for parts in (model.chain, model.tree) for name in PARTS),
    ):
        assert (table.count > 0).all()
        assert (table.median > 0).all()
        assert (table.low <= table.median).all()
        assert (table.median <= table.high).all()
        assert table.contexts.tolist() == list(GRID.contexts)
    assert model.chain.verify.sizes.tolist() == list(GRID.lengths)
    assert model.tree.verify.sizes.tolist() == [0, *GRID.nodes]
    assert model.tree.first.sizes.tolist() == [1, 2]
    assert model.tree.second.sizes.tolist() == [2, 4]
    assert model.tree.next.sizes.tolist() == [1, 4]
    assert model.about == {"who": "a test"}
    rounds = [found for text in texts for found in text.rounds]
    shapes = shapes_of(rounds, [found.context for found in rounds])
    for predicted, measured in (
        (model.draft_seconds(shapes), [sum(told.forward_seconds) for told in rounds]),
        (model.verify_seconds(shapes), [told.verify_seconds for told in rounds]),
        (model.other_seconds(shapes), [told.other_seconds for told in rounds]),
    ):
        # No timing: parts that are told apart wrongly differ by more than a busy machine does.
        found = torch.minimum(torch.tensor(measured), 4 * predicted)
        assert 0.1 < float(predicted.sum()) / float(found.sum()) < 10


@pytest.fixture
def spend(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time stands still, but for the seconds that are spent by this function."""
    now = [0.0]

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(
        "adaeagle.decoding.clock.time", SimpleNamespace(perf_counter=lambda: now[0])
    )
    return pass_by


LINEAR = CostModel.linear(constant=0.5, draft=1.0, verify=8.0, node=0.25, width=0.125, prefill=0.5)


Seen = list[tuple[int, list[int], int, int]]
"""Context, widths, nodes and tokens taken in of each round."""


@pytest.fixture
def linear_machine(spend: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> Seen:
    """A machine of known costs: what the models saw of each round."""
    seen: list[tuple[int, list[int], int, int]] = []
    widths: list[int] = []
    taken_in = [0]
    own = (EagleSession.catch_up, EagleSession.extend, TargetSession.verify)
    prefill, commit = TargetSession.prefill, TargetSession.commit

    def catch_up(
        self: EagleSession, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        num_new = token_ids.shape[1]
        spend(1.0 if num_new < 20 else 2.0 * num_new)  # 20 and more: the prompt
        widths[:] = [1]
        taken_in[0] = num_new
        return own[0](self, token_ids, features, counts)

    def extend(self: EagleSession, token_ids: Tensor, origins: Tensor) -> Proposal:
        spend(1.0 + 0.125 * (token_ids.shape[1] - 1))
        widths.append(token_ids.shape[1])
        return own[1](self, token_ids, origins)

    def verify(
        self: TargetSession,
        roots: Tensor,
        tree: DraftTree,
        paths: Tensor,
        extra: ExtraRows | None = None,
    ) -> Any:
        spend(8.0 + 0.25 * len(tree))
        seen.append((self.cache.length, widths.copy(), len(tree), taken_in[0]))
        widths.clear()
        taken_in[0] = 0
        return own[2](self, roots, tree, paths, extra)

    def prefilled(self: TargetSession, prompt_ids: Sequence[int], row: int = 0) -> Any:
        spend(0.5 * len(prompt_ids))
        return prefill(self, prompt_ids, row)

    def committed(self: TargetSession, rows: Sequence[Sequence[int]]) -> None:
        spend(0.5)
        commit(self, rows)

    monkeypatch.setattr(EagleSession, "catch_up", catch_up)
    monkeypatch.setattr(EagleSession, "extend", extend)
    monkeypatch.setattr(TargetSession, "verify", verify)
    monkeypatch.setattr(TargetSession, "prefill", prefilled)
    monkeypatch.setattr(TargetSession, "commit", committed)
    return seen


def test_a_machine_of_known_costs_is_found(profiler: Profiler, linear_machine: Seen) -> None:
    texts = list(islice(profiler.texts(), NUM_TEXTS))
    model = tallied(GRID, texts).model({})
    draws = torch.Generator().manual_seed(0)
    contexts = torch.randint(0, 400, (60,), generator=draws).tolist()
    deck = [shape for seed in range(9) for shape in GRID.deck(random.Random(seed))][:60]
    rounds = [
        RoundTimes(shape.is_tree, context, shape.widths, shape.nodes, 1, (), 0.0, 0.0)
        for shape, context in zip(deck, contexts, strict=True)
    ]
    shapes = shapes_of(rounds, contexts)
    for part in ("draft", "verify", "other", "round"):
        found, expected = (getattr(m, f"{part}_seconds")(shapes) for m in (model, LINEAR))
        assert torch.allclose(found, expected)
    tokens = torch.tensor([8, 20, 100])
    assert torch.allclose(model.prefill_seconds(tokens), LINEAR.prefill_seconds(tokens))
    # A prompt of 168 tokens, and what a few plain steps before the first draft may have added.
    drafted = float(model.draft_prefill_seconds(torch.tensor([168])))
    assert 2.0 * 168 <= drafted < 2.0 * 175


def test_what_is_told_of_a_round_is_what_ran(profiler: Profiler, linear_machine: Seen) -> None:
    for text in islice(profiler.texts(), 8):
        told = [
            (found.context, list(found.widths), found.nodes, found.caught_up)
            for found in text.rounds
        ]
        # All but the one whose first forward read the prompt.
        reader = next(place for place, (_, widths, *_) in enumerate(linear_machine) if widths)
        assert linear_machine[:reader] + linear_machine[reader + 1 :] == told
        linear_machine.clear()
        for found in text.rounds:
            assert found.is_tree == (max(found.widths, default=1) > 1)
            assert len(found.forward_seconds) == len(found.widths)
        if text.context is not None:
            assert text.prompt_tokens == text.context - SPAN // 2
            assert all(abs(found.context - text.context) <= SPAN // 2 for found in text.rounds)


def test_shapes_are_interleaved_and_contexts_alternate(profiler: Profiler) -> None:
    texts = list(islice(profiler.texts(), NUM_TEXTS))
    at_contexts = [text.context for text in texts if text.context is not None]
    assert {at_contexts.count(context) for context in GRID.contexts} <= {3, 4}
    kinds = [found.is_tree for text in texts for found in text.rounds]
    switches = sum(one != other for one, other in pairwise(kinds))
    assert switches > len(kinds) / 4


def test_a_resumed_profile_goes_on_with_other_shapes(profiler: Profiler) -> None:
    def widths(texts: Iterator[TextTimes]) -> list[Any]:
        return [[found.widths for found in text.rounds] for text in islice(texts, 4)]

    first = widths(profiler.texts())
    assert widths(profiler.texts(4)) != first


def test_times_survive_json(profiler: Profiler) -> None:
    [text] = islice(profiler.texts(), 1)
    assert TextTimes.from_json(json.loads(json.dumps(text.to_json()))) == text


def test_the_warm_up_ends(profiler: Profiler) -> None:
    profiler.warm_up()


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("nodes", [1, 7, 60])
def test_beams(width: int, nodes: int) -> None:
    depth = least_depth(width, nodes)
    shape = Shape.beam(width, depth, nodes)
    assert len(shape.widths) == depth
    assert shape.widths[-1] == width
    assert shape.is_tree
    assert shape.num_drafted >= nodes
    fewer = Shape.beam(width, depth - 1, nodes)
    assert fewer.num_drafted < nodes or depth == 3


@pytest.mark.parametrize(
    "grid", [Grid(), GRID, Grid(widths=(2,), nodes=(500,)), Grid(widths=(1, 7), nodes=(1,))]
)
def test_a_deck_fills_every_cell(grid: Grid) -> None:
    deck = grid.deck(random.Random(0))
    filled = {(f"{kind(shape)}.verify", shape.nodes) for shape in deck}
    filled |= {(f"{kind(shape)}.other", shape.nodes) for shape in deck}
    filled |= {(f"{kind(shape)}.first", 1) for shape in deck if shape.widths}
    filled |= {(f"{kind(shape)}.second", width) for shape in deck for width in shape.widths[1:2]}
    filled |= {(f"{kind(shape)}.next", width) for shape in deck for width in shape.widths[2:]}
    assert filled == set(grid.cells())
    assert max(len(shape.widths) for shape in deck) <= grid.deepest


def kind(shape: Shape) -> str:
    return "tree" if shape.is_tree else "chain"


@pytest.mark.parametrize(
    ("max_length", "contexts"),
    [
        (1024, (64, 256, 974)),
        (512, (64, 256, 462)),
        (400, (64, 256)),
        (131072, (64, 256, 1024, 4096)),
        (100, (50,)),
    ],
)
def test_contexts_fit_the_target(max_length: int, contexts: tuple[int, ...]) -> None:
    grid = Grid().spread(max_length)
    assert grid.contexts == contexts
    least, most = grid.room(max_length)
    assert least <= contexts[0]
    assert contexts[-1] <= most


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"widths": (2, 1)}, r"widths must ascend from 1 or more, got \(2, 1\)"),
        ({"nodes": (0, 1)}, "nodes must ascend from 1"),
        ({"contexts": ()}, "contexts must ascend"),
        ({"lengths": (1, 2)}, "lengths must hold 0"),
        ({"lengths": (0, 2)}, "lengths must hold 0 and go beyond 2"),
    ],
)
def test_grids_that_say_nothing(change: dict[str, tuple[int, ...]], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Grid(**change)


@pytest.mark.parametrize(
    ("grid", "prompts", "rule"),
    [
        (Grid(contexts=(32,)), [[1]], r"contexts must be in 33\.\.462"),
        (Grid(contexts=(64, 463)), [[1]], r"contexts must be in 33\.\.462, .* got \(64, 463\)"),
        (Grid(widths=(97,)), [[1]], "widths must be <= 96 draft tokens"),
        (GRID, [], "prompts must be at least one"),
        (GRID, [[1], []], "prompts must be at least one, of at least one token"),
    ],
)
def test_what_does_not_fit_the_models(
    make_pair: Any, grid: Grid, prompts: list[list[int]], rule: str
) -> None:
    pair: tuple[Target, EagleDrafter] = make_pair("eagle")
    with pytest.raises(ValueError, match=rule):
        Profiler(*pair, grid, prompts)


def test_slow_moments_are_divided_out() -> None:
    """Ratios between cells are exact, though most moments hold few cells and one in three drags."""
    draws = random.Random(0)
    costs = {("t", size, 0): 1.0 + size for size in range(12)}
    speeds = [draws.choice((1.0, 1.0, draws.uniform(1.5, 4))) for _ in range(200)]
    moments = [
        [(cell, speed * costs[cell]) for cell in draws.choices(list(costs), k=9)]
        for speed in speeds
    ]
    found = [sample for moment in steadied(moments) for sample in moment]
    assert len(found) == 1800
    assert all(seconds == pytest.approx(costs[cell]) for cell, seconds in found)


def test_nothing_slow_stays_as_it_is() -> None:
    moments = [[(("t", 1, 0), 2.0), (("t", 2, 0), 0.0)], [(("t", 2, 0), 0.0)]]
    assert steadied(moments) == moments
    assert steadied([]) == []


def test_an_empty_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="samples must fill the grid"):
        Tally(GRID).model({})


def test_texts_side_by_side(make_pair: Any, make_prompt: Callable[..., list[int]]) -> None:
    """Every text has the round's shape, and none ends before the span is measured."""
    target, drafter = make_pair("eagle")
    prompts = [make_prompt(9, 0), make_prompt(300, 1)]
    profiler = Profiler(target, drafter, GRID, prompts, num_texts=3)
    texts = list(islice(profiler.texts(), NUM_TEXTS))
    assert {text.num_texts for text in texts} == {3}
    assert TextTimes.from_json(json.loads(json.dumps(texts[0].to_json()))) == texts[0]
    tally = tallied(GRID, texts)
    assert tally.share(1) == 1
    assert max(found.nodes for text in texts for found in text.rounds) == GRID.nodes[-1]
    summed = of_each(tally.model({}), 3)
    assert summed.chain.verify.sizes.tolist() == [3 * length for length in GRID.lengths]
    assert summed.chain.first.sizes.tolist() == [1, 2]  # tokens that one text takes in
