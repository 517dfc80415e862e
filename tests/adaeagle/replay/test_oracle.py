"""Oracles against brute force, and against every policy of their family."""

from collections.abc import Callable

import pytest
import torch

from adaeagle import Target
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt
from adaeagle.drafters.base import Drafter
from adaeagle.registry import get_policy
from adaeagle.replay.headroom import chain_family, eagle2_family, headroom, prefill_seconds
from adaeagle.replay.oracle import (
    Choices,
    Plan,
    choices,
    clairvoyant,
    dp,
    greedy,
    headroom_recovered,
    reach,
)
from adaeagle.replay.replay import replay, replay_everywhere
from adaeagle.trace.envelope import Envelope
from adaeagle.trace.positions import Positions
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]


def empty_text(num_tokens: int) -> RecordedText:
    """A text of which only the length matters."""
    return RecordedText(
        prompt_id=str(num_tokens),
        turn=0,
        category="",
        source="",
        prompt_ids=torch.arange(3),
        token_ids=torch.arange(num_tokens),
        limit=num_tokens,
        features=torch.zeros(num_tokens + 2, 1),
        draft_features=None,
        top_token_ids=torch.zeros(num_tokens, 1, dtype=torch.int64),
        top_log_probs=torch.zeros(num_tokens, 1),
        envelope=Envelope(num_tokens - 1, 1),
    )


def random_family(num_members: int, positions: Positions, seed: int) -> Choices:
    """Members that emit and cost at random."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_members, len(positions))
    accepted = torch.randint(0, 5, shape, generator=generator)
    emitted = torch.minimum(accepted + 1, positions.num_left)
    accepted = torch.minimum(accepted, emitted)
    seconds = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    return Choices(emitted, accepted, seconds)


def cheapest(family: Choices, position: int, num_left: int) -> float:
    """The cheapest way from a position to the end of its text, trying everything."""
    if num_left <= 0:
        return 0.0
    ways = []
    for member in range(len(family.seconds)):
        emitted = int(family.num_emitted[member, position])
        rest = cheapest(family, position + emitted, num_left - emitted)
        ways.append(float(family.seconds[member, position]) + rest)
    return min(ways)


@pytest.mark.parametrize("seed", range(8))
def test_dp_is_brute_force(seed: int) -> None:
    positions = Positions([empty_text(8), empty_text(2), empty_text(6)])
    family = random_family(3, positions, seed)
    expected = sum(
        cheapest(family, int(start), int(positions.num_left[start]))
        for start in positions.starts[:-1]
    )
    plan = dp(family, positions)
    assert float(plan.seconds.sum()) == pytest.approx(expected)
    check_whole(plan, positions)


def check_whole(plan: Plan, positions: Positions) -> None:
    """The rounds of an oracle emit every token once."""
    assert int(plan.num_emitted.sum()) == len(positions)
    assert plan.visited.tolist() == sorted(set(plan.visited.tolist()))


@pytest.mark.parametrize("seed", range(20))
def test_no_plan_of_the_family_beats_dp(seed: int) -> None:
    positions = Positions([empty_text(40), empty_text(25)])
    family = random_family(6, positions, seed)
    best = float(dp(family, positions).seconds.sum())
    assert best <= float(greedy(family, positions).seconds.sum()) + 1e-9
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(positions))
    for _ in range(20):
        members = torch.randint(0, 6, (len(positions),), generator=generator)
        seconds, emitted = family.seconds[members, rows], family.num_emitted[members, rows]
        # Texts lie end to end, and a round never emits beyond its own.
        total, here = 0.0, 0
        while here < len(positions):
            total += float(seconds[here])
            here += int(emitted[here])
        assert total >= best - 1e-9


def test_greedy_takes_the_furthest_and_of_those_the_cheapest() -> None:
    positions = Positions([empty_text(5)])
    accepted = torch.tensor([[0, 0, 0, 0], [2, 1, 0, 0], [2, 2, 1, 0]])
    seconds = torch.tensor([[1.0] * 4, [2.0] * 4, [3.0] * 4], dtype=torch.float64)
    emitted = torch.minimum(accepted + 1, positions.num_left)
    plan = greedy(Choices(emitted, accepted, seconds), positions)
    assert plan.members.tolist() == [1, 2, 2, 0]
    assert plan.visited.tolist() == [0, 3]


@pytest.fixture(scope="module")
def trace(make_pair: MakePair, make_prompt: MakePrompt) -> Trace:
    target, drafter = make_pair("eagle")
    envelope = ("chain(length=8)", "eagle2(depth=4, width=3)")
    recorder = Recorder(target, drafter, envelope, max_new_tokens=48)
    prompts = [Prompt(id=str(n), token_ids=tuple(make_prompt(9, n))) for n in range(3)]
    texts = [text for prompt in prompts for text in recorder.record(prompt)]
    return Trace(texts, target.vocab_size, lambda: drafter)


def random_cost(seed: int) -> CostModel:
    draws = torch.rand(5, generator=torch.Generator().manual_seed(seed)).tolist()
    return CostModel.linear(
        constant=draws[0],
        draft=draws[1],
        verify=3 * draws[2],
        node=0.3 * draws[3],
        width=0.1 * draws[4],
    )


def seconds_of(spec: str, trace: Trace, cost: CostModel) -> float:
    rounds = replay(get_policy(spec), trace).rounds
    return float(cost.round_seconds(rounds.shapes(trace.positions)).sum())


@pytest.mark.parametrize("seed", range(3))
def test_no_policy_of_chains_beats_their_dp(seed: int, trace: Trace) -> None:
    cost = random_cost(seed)
    family = choices([get_policy(spec) for spec in chain_family(12)], trace, cost)
    best = float(dp(family, trace.positions).seconds.sum())
    for spec in (
        "vanilla",
        "chain(length=3)",
        "confidence(threshold=0.3)",
        "cumulative(log_threshold=-2.0)",
        "hf_heuristic(start=3)",
        "hf_dynamic",
        "adaedl(threshold=0.3)",
    ):
        assert seconds_of(spec, trace, cost) >= best - 1e-9, spec
    # What is accepted at most is accepted by the longest chain, and dp may do worse nowhere.
    assert float(clairvoyant(trace, cost).seconds.sum()) <= best + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_no_policy_of_trees_beats_their_dp(seed: int, trace: Trace) -> None:
    cost = random_cost(seed)
    members = eagle2_family(depths=(1, 2, 4), widths=(3,), nodes=(2, 4, 8, 16))
    family = choices([get_policy(spec) for spec in members], trace, cost)
    best = float(dp(family, trace.positions).seconds.sum())
    assert best <= float(greedy(family, trace.positions).seconds.sum()) + 1e-9
    for spec in members:
        assert seconds_of(spec, trace, cost) >= best - 1e-9, spec


def test_reach_is_the_longest_recorded_path_that_is_in_the_text(trace: Trace) -> None:
    envelope, positions = trace.envelope, trace.positions

    def deepest(node: int, said: list[int]) -> int:
        """Tokens of `said` that follow a node, trying every child."""
        if node < 0 or not said:
            return 0
        ways = [
            1 + deepest(int(envelope.children[node, rank]), said[1:])
            for rank, token in enumerate(envelope.token_ids[node].tolist())
            if token == said[0]
        ]
        return max(ways, default=0)

    expected = []
    for row in range(len(positions)):
        text = trace.texts[int(positions.text_of[row])]
        place = int(positions.within[row])
        said = text.token_ids.tolist()[place + 1 : text.limit - 1]
        expected.append(deepest(int(envelope.roots[row]), said))
    assert reach(trace).tolist() == expected
    chain = replay_everywhere(get_policy("chain(length=8)"), trace).rounds
    assert (reach(trace) >= chain.num_accepted).all()


def test_headroom_of_a_family(trace: Trace) -> None:
    cost = CostModel.linear(constant=0.1, draft=0.2, verify=2.0, node=0.05, prefill=0.01)
    members = chain_family(8)
    found = headroom("chain", members, trace, cost)
    tokens = sum(len(text.token_ids) for text in trace.texts)
    speeds = [
        tokens / (seconds_of(spec, trace, cost) + prefill_seconds(trace, cost)) for spec in members
    ]
    assert found.fixed == pytest.approx(max(speeds))
    assert found.baseline == members[speeds.index(max(speeds))]
    assert found.baseline_chosen_on == "the same prompts"
    assert found.fixed <= found.greedy <= found.dp
    assert found.recovered_by(found.fixed) == 0
    assert found.recovered_by(found.dp) == 1
    assert headroom("chain", members, trace, cost, tune=trace).baseline_chosen_on == "tune"


def test_headroom_recovered_is_nothing_where_nothing_can_be_won() -> None:
    assert headroom_recovered(5.0, 10.0, 10.0) is None
    assert headroom_recovered(12.0, 10.0, 20.0) == pytest.approx(0.2)


def test_a_member_that_learns_is_refused(trace: Trace) -> None:
    with pytest.raises(ValueError, match="must not learn"):
        choices([get_policy("hf_heuristic")], trace, random_cost(0))
    with pytest.raises(ValueError, match="at least one"):
        choices([], trace, random_cost(0))
