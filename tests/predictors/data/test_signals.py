"""Signals by hand, and live as from a trace."""

import pytest
import torch

from adaeagle import EagleDrafter, Target, generate
from adaeagle.data.bundled import bundled_folder
from adaeagle.data.prompts import Prompt
from adaeagle.policy import Budget, Context, Outcome, PolicyWrapper
from adaeagle.registry import get_policy
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.trace import Trace
from predictors.data.chains import read_chains
from predictors.data.history import History
from predictors.data.signals import (
    CLASSES,
    chain_history,
    suffix_signals,
    target_signals,
    token_classes,
)

K = 4


class Noting(PolicyWrapper):
    """Notes what a policy is given before each round."""

    def __init__(self) -> None:
        super().__init__(get_policy(f"chain(length={K})"))
        self.learns = True
        self.history = History()
        self.noted: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.drafted: list[list[int]] = []

    def plan(self, context: Context) -> Budget:
        self.noted.append((target_signals(context), self.history.signals(1)))
        return super().plan(context)

    def observe(self, outcome: Outcome) -> None:
        self.history.observe(outcome)


@pytest.mark.skipif(bundled_folder("mini", "target") is None, reason="no bundled model")
def test_live_rounds_and_traces_tell_the_same() -> None:
    target = Target.from_pretrained("mini", dtype=torch.float32)
    drafter = EagleDrafter.from_pretrained("mini", target)
    prompt = Prompt("a", turns=("How do I list files by size?",))
    recorder = Recorder(target, drafter, [f"chain(length={K})"], max_new_tokens=40)
    [text] = recorder.record(prompt)
    trace = Trace([text], target.vocab_size)
    noting = Noting()
    ids = text.prompt_ids.tolist()
    out = generate(target, drafter, noting, ids, max_new_tokens=40)
    assert out.token_ids == text.token_ids.tolist()
    rows = torch.tensor([0, *(r.num_emitted for r in out.rounds[:-1])]).cumsum(0)
    context = trace.positions.context(rows, -1)
    live_target = torch.cat([each for each, _ in noting.noted])
    torch.testing.assert_close(target_signals(context), live_target, atol=1e-3, rtol=1e-3)
    live_history = torch.cat([each for _, each in noting.noted])
    # A chain that the text's end cuts short leaves other traces: the last rounds are left out.
    found = chain_history(trace, read_chains(trace, K))[rows]
    torch.testing.assert_close(found[:-1], live_history[:-1], atol=1e-3, rtol=1e-3)


def test_target_signals_by_hand() -> None:
    one = torch.ones(1, dtype=torch.int64)
    probs = torch.tensor([[0.5, 0.25]])
    context = Context(0, one, one, one, one, target_log_probs=lambda count: probs.log())
    entropy, lead = target_signals(context)[0].tolist()
    assert entropy == pytest.approx(1.0397, abs=1e-3)  # of a half and two quarters
    assert lead == pytest.approx(0.6931, abs=1e-3)
    with pytest.raises(ValueError, match="target_log_probs must be known"):
        target_signals(Context(0, one, one, one, one))


def test_suffix_signals_by_hand() -> None:
    one = torch.ones(1, dtype=torch.int64)
    text = [1, 2, 3, 4, 9, 1, 2, 3]  # "1 2 3" occurred before, and 4 9 followed
    context = Context(0, one, one, one, one, recent=lambda count: [text[-count:]])
    length, agrees, echoed = suffix_signals(context, torch.tensor([[4, 9, 7]]))[0].unbind(1)
    assert length.exp().tolist() == pytest.approx([4.0] * 3)
    assert agrees.tolist() == [1.0, 1.0, 0.0]
    assert echoed[2] == 0 < echoed[0] < echoed[1]


def test_history_forgets_and_keeps_apart_the_sure_from_the_unsure() -> None:
    history = History()
    probs = torch.tensor([[0.9, 0.5], [0.9, 0.9]])
    tested = torch.tensor([[True, True], [True, False]])
    accepted = torch.tensor([[True, False], [False, False]])
    history.add(probs, tested, accepted, torch.tensor([True, True]))
    first = history.signals(2)
    assert first[:, 1].tolist() == [1.0, 0.0]  # accepted in the last round
    assert first[0, 4] == pytest.approx(0.2 * 0.1)
    assert first[0, 5] == pytest.approx(0.2 * -0.5)
    assert first[1, 5] == 0  # nothing unsure was tested
    history.add(probs, tested, accepted, torch.tensor([True, False]))
    torch.testing.assert_close(history.signals(2)[1], first[1])
    assert history.signals(2)[0, 0] == pytest.approx(1.0986, abs=1e-3)  # log of three
    history.reset()
    assert not history.signals(3).any()


def test_token_classes() -> None:
    texts = [" ", "12", ".", " Paris", " the", "ing", "a1"]
    found = [CLASSES[each] for each in token_classes(7, texts.__getitem__).tolist()]
    wanted = ["space", "digits", "punctuation", "capitalised", "word", "piece", "digits"]
    assert found == wanted
