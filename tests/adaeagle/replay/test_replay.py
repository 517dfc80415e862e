"""A replayed policy runs the rounds it runs live, round for round."""

import copy
from collections.abc import Callable
from importlib.metadata import entry_points
from inspect import signature

import pytest
import torch
from torch import Tensor

from adaeagle import Generation, Target, generate
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt
from adaeagle.drafters.base import Drafter
from adaeagle.policy import Budget, Context, Outcome, Policy
from adaeagle.registry import POLICIES as POLICY_GROUP
from adaeagle.registry import get_policy
from adaeagle.replay import replay as replaying
from adaeagle.replay.replay import replay, replay_everywhere, replay_family, texts_of
from adaeagle.replay.rounds import Played, Rounds, play
from adaeagle.trace.proposer import NotRecordedError
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]

KINDS = ("model", "eagle")
LENGTH = 40
ENVELOPE = ("chain(length=12)", "eagle2(depth=4, width=4)", "static_tree('eagle1')")

RECORDED = (
    "vanilla",
    "chain(length=1)",
    "chain(length=9)",
    "confidence(threshold=0.1)",
    "chain(stop=cumulative(log_threshold=-4.0))",
    "chain(stop=entropy(threshold=1.5))",
    "chain(stop=adaedl(threshold=0.3))",
    "hf_heuristic(start=3)",
    "hf_dynamic",
    "all_of(confidence(threshold=0.2), hf_heuristic)",
    "static_tree",
    "static_tree('eagle1', stop=confidence(threshold=0.05))",
    "eagle2(depth=4, width=4, nodes=11)",
    "eagle2(depth=3, width=4, nodes=6)",
    "eagle2(depth=4, width=4, nodes=14, stop=beam_total(log_threshold=-1.0, depths=[2]))",
)
"""Policies whose every node `ENVELOPE` holds."""

DRAFTED = (
    "chain(length=15)",
    "static_tree('medusa_63')",
    "static_tree([[0], [1], [2], [0, 0], [1, 0], [1, 1], [1, 0, 0]])",
    "eagle2(depth=6, width=10, nodes=59)",
    "opt_tree(nodes=20, threshold=0.05, depth=6, width=5)",
    "talon(nodes=20, mu=0.05, depth=8, width=5)",
    "marginal_tree(speedup=0.3, depth=9, width=3)",
    "eagle2(depth=5, width=6, nodes=24, stop=confidence(threshold=0.05))",
    "eagle2(depth=5, width=3, nodes=14, stop=adaedl(threshold=0.3))",
    "eagle2(depth=5, width=3, nodes=14, stop=any_of(confidence(threshold=0.1), hf_heuristic))",
    "chain(stop=adaedl(threshold=0.3, across_texts=True), length=14)",
    "chain(stop=hf_dynamic(across_texts=True), length=14)",
    "chain(stop=hf_heuristic(across_texts=True), length=20)",
    "ucb(chain(length=6), eagle2(depth=3, width=3, nodes=8), across_texts=True, cost='mini')",
    "ucb(static_tree, chain(stop=hf_dynamic), talon(nodes=9), cost='mini')",
    "thompson(hf_heuristic(across_texts=True), opt_tree(nodes=20), cost='mini', seed=1)",
)
"""Policies that ask for more."""


@pytest.fixture(scope="module")
def record(make_pair: MakePair, make_prompt: MakePrompt) -> Callable[[str], list[RecordedText]]:
    """Three texts of a pair; the second ends at a stop token."""
    known: dict[str, list[RecordedText]] = {}

    def texts(kind: str) -> list[RecordedText]:
        if kind not in known:
            target, drafter = make_pair(kind)
            recorder = Recorder(target, drafter, ENVELOPE, max_new_tokens=LENGTH)
            prompts = [
                Prompt(id=f"p{seed}", token_ids=tuple(make_prompt(length, seed)))
                for length, seed in ((11, 3), (1, 5), (7, 1))
            ]
            known[kind] = [text for prompt in prompts for text in recorder.record(prompt)]
        return known[kind]

    return texts


def live_rounds(out: Generation) -> list[tuple[int, ...]]:
    return [
        (r.depth, r.num_drafted, r.num_verified, r.num_accepted, r.num_emitted) for r in out.rounds
    ]


def replayed_rounds(rounds: Rounds) -> list[tuple[int, ...]]:
    columns = (
        rounds.depth,
        rounds.num_drafted,
        rounds.num_verified,
        rounds.num_accepted,
        rounds.num_emitted,
    )
    return [tuple(row) for row in torch.stack(columns, dim=1).tolist()]


def live_and_replayed(
    pair: tuple[Target, Drafter], texts: list[RecordedText], trace: Trace, spec: str
) -> list[tuple[list[tuple[int, ...]], list[tuple[int, ...]]]]:
    """Each text's rounds, live and replayed."""
    policy = get_policy(spec)
    replayed = texts_of(replay(get_policy(spec), trace), trace)
    pairs = []
    for text, rounds in zip(texts, replayed, strict=True):
        out = generate(*pair, policy, text.prompt_ids.tolist(), max_new_tokens=text.limit)
        assert out.token_ids == text.token_ids.tolist()
        pairs.append((live_rounds(out), replayed_rounds(rounds)))
    return pairs


@pytest.mark.parametrize("spec", [*RECORDED, *DRAFTED])
@pytest.mark.parametrize("kind", KINDS)
def test_replay_is_live(
    kind: str, spec: str, make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    target, drafter = make_pair(kind)
    trace = Trace(record(kind), target.vocab_size, lambda: drafter)
    for live, replayed in live_and_replayed((target, drafter), record(kind), trace, spec):
        assert replayed == live


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_recorded_needs_no_model(
    kind: str, make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    trace = Trace(record(kind), make_pair(kind)[0].vocab_size)
    for spec in RECORDED:
        assert replay(get_policy(spec), trace).num_missing == 0


@pytest.mark.parametrize("spec", ["chain(length=13)", "eagle2(depth=5, width=5)"])
def test_what_was_not_recorded_is_refused_without_a_model(
    spec: str, make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    trace = Trace(record("eagle"), make_pair("eagle")[0].vocab_size)
    with pytest.raises(NotRecordedError, match="not recorded"):
        replay(get_policy(spec), trace)


def test_what_was_drafted_is_kept(
    make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    target, drafter = make_pair("eagle")
    trace = Trace(record("eagle"), target.vocab_size, lambda: drafter)
    policy = get_policy("eagle2(depth=5, width=12, nodes=40)")
    first, again = replay(policy, trace), replay(policy, trace)
    assert first.num_missing > 0
    assert again.num_missing == 0
    assert torch.equal(first.rounds.num_accepted, again.rounds.num_accepted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_shifted_by_one_is_noticed(
    kind: str, make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    target, drafter = make_pair(kind)
    texts = record(kind)
    trace = Trace(texts, target.vocab_size, lambda: drafter)
    trace.envelope.roots = trace.envelope.roots.roll(1)
    wrong = [
        spec
        for spec in ("chain(length=9)", "eagle2(depth=4, width=4, nodes=11)", "static_tree")
        for live, replayed in live_and_replayed((target, drafter), texts, trace, spec)
        if live != replayed
    ]
    assert len(set(wrong)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_end_at_a_stop_token(
    kind: str, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    target, drafter = make_pair(kind)
    prompt = make_prompt(11, 3)
    plain = generate(target, None, "vanilla", prompt, max_new_tokens=LENGTH).token_ids
    stopped = copy.copy(target)
    stopped.model = copy.copy(target.model)
    stopped.model.generation_config = copy.deepcopy(target.model.generation_config)
    assert stopped.model.generation_config is not None
    stopped.model.generation_config.eos_token_id = plain[17]
    pair = (stopped, drafter)
    recorder = Recorder(stopped, drafter, ENVELOPE, max_new_tokens=LENGTH)
    other = Prompt("other", token_ids=tuple(make_prompt(7, 1)))
    texts = recorder.record(Prompt("p", token_ids=tuple(prompt))) + recorder.record(other)
    assert len(texts[0].token_ids) <= 18
    trace = Trace(texts, stopped.vocab_size, lambda: drafter)
    for spec in (*RECORDED, *DRAFTED):
        for live, replayed in live_and_replayed(pair, texts, trace, spec):
            assert replayed == live, spec


def test_every_registered_policy_is_replayed() -> None:
    """Those that hold a predictor are tried in `tests/policies/test_predicting.py`."""
    ours = {
        entry.name
        for entry in entry_points(group=POLICY_GROUP)
        if entry.value.startswith("policies.")
        and "predictor" not in signature(entry.load()).parameters
        # Of look-ups: `tests/adaeagle/trace/test_redrafted.py`.
        and entry.name not in ("score", "by_match_length")
        # Of texts side by side: `tests/policies/test_batch_rules.py`.
        and getattr(entry.load(), "scope", "row") == "row"
    }
    tried = " ".join([*RECORDED, *DRAFTED])
    assert {name for name in ours if name not in tried} == set()


@pytest.mark.parametrize("spec", ["chain(length=6)", "eagle2(depth=3, width=3, nodes=7)"])
def test_everywhere_agrees_with_the_rounds_that_are_run(
    spec: str, make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    target, drafter = make_pair("eagle")
    trace = Trace(record("eagle"), target.vocab_size, lambda: drafter)
    everywhere = replay_everywhere(get_policy(spec), trace).rounds
    assert everywhere.rows.tolist() == list(range(len(trace.positions)))
    some = replay(get_policy(spec), trace).rounds
    assert torch.equal(everywhere.take(some.rows).num_emitted, some.num_emitted)


@pytest.mark.parametrize("spec", ["chain(length=9)", "eagle2(depth=4, width=4, nodes=11)"])
@pytest.mark.parametrize(("calls", "nodes"), [(0, 1 << 17), (0, 1), (10**9, 1 << 17), (10**9, 40)])
def test_rounds_do_not_depend_on_the_order_they_are_evaluated_in(
    calls: int,
    nodes: int,
    spec: str,
    make_pair: MakePair,
    record: Callable[[str], list[RecordedText]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls that cost nothing: a round at a time; calls that cost all: everywhere at once."""
    trace = Trace(record("eagle"), make_pair("eagle")[0].vocab_size)
    expected = replayed_rounds(replay(get_policy(spec), trace).rounds)
    sizes = []

    def counting(policy: Policy, trace: Trace, rows: Tensor, number: int) -> Played:
        sizes.append(len(rows))
        return play(policy, trace, rows, number)

    monkeypatch.setattr(replaying, "CALL_NODES", calls)
    monkeypatch.setattr(replaying, "MAX_NODES", nodes)
    monkeypatch.setattr(replaying, "play", counting)
    assert replayed_rounds(replay(get_policy(spec), trace).rounds) == expected
    assert sizes[0] == 3
    if nodes > 40:
        assert (len(sizes) <= 3) == (calls > 0)
    else:
        assert max(sizes[1:]) <= max(1, nodes // 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_family_shares_drafts_and_nothing_else(
    kind: str, make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    target, drafter = make_pair(kind)
    trace = Trace(record(kind), target.vocab_size, lambda: drafter)
    specs = [
        "eagle2(depth=4, width=4, nodes=11)",
        "vanilla",
        "chain(length=3)",
        "eagle2(depth=2, width=4, nodes=20)",
        "eagle2(depth=2, width=3, nodes=9)",
        "chain(length=12)",
        "eagle2(depth=4, width=4, nodes=3)",
        "eagle2(depth=4, width=4, nodes=11, stop=confidence(threshold=0.3))",
        "static_tree([[0], [1], [0, 0]])",
        "static_tree([[0], [1], [1, 0]])",
    ]
    family = replay_family([get_policy(spec) for spec in specs], trace)
    for spec, found in zip(specs, family, strict=True):
        alone = replay_everywhere(get_policy(spec), trace).rounds
        assert replayed_rounds(found) == replayed_rounds(alone), spec
        assert torch.equal(found.rows, alone.rows)
        assert torch.equal(found.is_tree, alone.is_tree)
        deepest = int(alone.depth.max())
        assert torch.equal(found.widths[:, :deepest], alone.widths[:, :deepest])
        assert not found.widths[:, deepest:].any()


class Listening(Policy):
    """Draws on everything that a hook is told; keeps what it saw."""

    learns = True

    def __init__(self) -> None:
        self.seen: list[tuple[Context, Outcome]] = []
        self.recents: list[list[list[int]]] = []

    def plan(self, context: Context) -> Budget:
        assert context.recent is not None
        self.context = context
        self.recents.append(context.recent(20))
        return Budget(depth=3, width=2, nodes=4)

    def observe(self, outcome: Outcome) -> None:
        self.seen.append((self.context, outcome))


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_told_what_they_are_told_live(
    kind: str, make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    target, drafter = make_pair(kind)
    text = record(kind)[0]
    trace = Trace([text], target.vocab_size, lambda: drafter)
    live, replayed = Listening(), Listening()
    cost = CostModel.linear(constant=0.1, draft=1.0, verify=5.0)
    generate(target, drafter, live, text.prompt_ids.tolist(), max_new_tokens=LENGTH)
    replay(replayed, trace, cost)
    assert len(live.seen) == len(replayed.seen) > 3
    assert live.recents == replayed.recents
    for (context, outcome), (their_context, their_outcome) in zip(
        live.seen, replayed.seen, strict=True
    ):
        assert context.round == their_context.round
        for name in ("num_tokens", "remaining", "token_ids", "last_token_ids"):
            assert torch.equal(getattr(context, name), getattr(their_context, name)), name
        assert context.features is not None
        assert their_context.features is not None
        torch.testing.assert_close(context.features, their_context.features)
        for name in ("tested", "accepted", "num_accepted", "num_emitted", "depth"):
            assert torch.equal(getattr(outcome, name), getattr(their_outcome, name)), name
        assert torch.equal(outcome.tree.token_ids, their_outcome.tree.token_ids)
        assert torch.equal(outcome.tree.parents, their_outcome.tree.parents)
        torch.testing.assert_close(outcome.tree.path_log_probs, their_outcome.tree.path_log_probs)
        assert their_outcome.draft_seconds.tolist() == [float(outcome.depth)]
        assert their_outcome.verify_seconds.tolist() == [5.0]


@pytest.mark.parametrize(
    "spec", ["eagle2(depth=3, width=3, nodes=7)", "hf_heuristic(start=3)", "vanilla"]
)
def test_some_texts_are_replayed_as_among_all(
    spec: str, make_pair: MakePair, record: Callable[[str], list[RecordedText]]
) -> None:
    target, drafter = make_pair("eagle")
    trace = Trace(record("eagle"), target.vocab_size, lambda: drafter)
    everything = list(texts_of(replay(get_policy(spec), trace), trace))
    some = list(texts_of(replay(get_policy(spec), trace, texts=torch.tensor([0, 2])), trace))
    assert len(some[1].rows) == 0
    for number in (0, 2):
        assert replayed_rounds(some[number]) == replayed_rounds(everything[number])
