"""How much faster a replay is than living through it, and what recording costs.

Question: (a) the seconds of decoding texts live under a policy over the seconds of replaying the
policy on the same texts, all of them at once; (b) the seconds of recording texts over those of
decoding them plainly, for one deep and wide beam and for the default envelope.
Setting: `mini`, one thread. (a) Each text is
decoded under all policies in turn; every few texts all policies are replayed on the whole trace, so
that both sides meet the same machine. A replay counts from the policy's making to the records of
every prompt, priced by a cost table; the measuring of a policy's own time, of the same length
however many texts there are, is left out. The ratio is of all live seconds to the median replay;
its interval draws texts and replays anew. (b) Each prompt is answered plainly and recorded in turn,
and the totals are compared.
Expected: (a) 300 and more where rounds are independent, 30 and more for rules that learn; (b) 3 at
most.

    python -m experiments.benchmarks.replay --out result.json

The last line of stdout is the result as JSON.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from adaeagle import EagleDrafter, Target, generate, get_policy
from adaeagle.bench.replayed import arm_records
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt, digest
from adaeagle.replay.replay import replay
from adaeagle.trace.recorder import DEFAULT_ENVELOPE, Recorder
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from experiments.benchmarks import harness
from experiments.runs.compare import POLICIES as COMPARED

LEARNING = ("hf_heuristic", "hf_dynamic", "chain(stop=adaedl)")
BEAM = "eagle2(depth=8, width=10)"
COSTS = CostModel.linear(constant=0.0002, draft=0.0008, verify=0.009, node=0.0002, width=0.0001)
NUM_REPLAYS = 12


def timed(act: Callable[..., object], *arguments: object, **named: object) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    act(*arguments, **named)
    return time.perf_counter() - start


def replayed(spec: str, trace: Trace) -> None:
    """A policy on a whole trace, to the records of every prompt."""
    arm_records(replay(get_policy(spec), trace, COSTS), trace, COSTS, 0.0)


def against_live(
    target: Target, drafter: EagleDrafter, specs: Sequence[str], trace: Trace
) -> dict[str, Any]:
    """(a)"""
    arms = {spec: get_policy(spec) for spec in specs}
    live: dict[str, list[float]] = defaultdict(list)
    replay_seconds: dict[str, list[float]] = defaultdict(list)
    for spec in specs:  # warms up, and drafts what was not recorded
        replayed(spec, trace)
    every = max(1, len(trace.texts) // NUM_REPLAYS)
    for number, text in enumerate(trace.texts):
        prompt, limit = text.prompt_ids.tolist(), text.limit
        for spec, policy in arms.items():
            head = None if spec == "vanilla" else drafter
            live[spec].append(timed(generate, target, head, policy, prompt, max_new_tokens=limit))
            if number % every == 0:
                replay_seconds[spec].append(timed(replayed, spec, trace))
        print(f"{number + 1} of {len(trace.texts)} texts", file=sys.stderr)
    return {spec: speed(live[spec], replay_seconds[spec]) for spec in specs}


def speed(live: Sequence[float], replay_seconds: Sequence[float]) -> dict[str, Any]:
    """How many times faster the replays were than all live texts together."""
    draws = np.random.default_rng(0)
    texts = draws.choice(live, size=(2000, len(live))).sum(axis=1)
    replays = np.median(draws.choice(replay_seconds, size=(2000, len(replay_seconds))), axis=1)
    low, high = np.quantile(texts / replays, [0.025, 0.975])
    return {
        "live_seconds": round(float(np.sum(live)), 3),
        "replay_seconds": round(float(np.median(replay_seconds)), 5),
        "ratio": round(float(np.sum(live) / np.median(replay_seconds)), 1),
        "ci95": [round(float(low), 1), round(float(high), 1)],
    }


def recording(
    target: Target, drafter: EagleDrafter, prompts: Sequence[Prompt], max_new_tokens: int
) -> tuple[dict[str, Any], list[RecordedText]]:
    """(b), and the texts of the default envelope."""
    recorders = {
        BEAM: Recorder(target, drafter, (BEAM,), max_new_tokens),
        "default": Recorder(target, drafter, DEFAULT_ENVELOPE, max_new_tokens),
    }
    plain: list[float] = []
    seconds: dict[str, list[float]] = defaultdict(list)
    texts: list[RecordedText] = []
    recorders["default"].record(prompts[0])  # warms up
    for prompt in prompts:
        for name, recorder in recorders.items():
            start = time.perf_counter()
            found = recorder.record(prompt)
            seconds[name].append(time.perf_counter() - start)
        all_prompt_ids = [text.prompt_ids.tolist() for text in found]
        settings = {"max_new_tokens": max_new_tokens}
        plain.append(
            sum(timed(generate, target, None, "vanilla", a, **settings) for a in all_prompt_ids)
        )
        texts += found
    return {name: over(values, plain) for name, values in seconds.items()}, texts


def over(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The ratio of two totals over the same prompts."""
    return {
        "seconds": round(sum(ours), 3),
        "plain_seconds": round(sum(theirs), 3),
        "ratio": round(sum(ours) / sum(theirs), 3),
        "ci95": harness.interval(harness.ratio_of_totals, ours, theirs, digits=3),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--limit", type=int, default=88, help="prompts")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--policies", nargs="+", default=(*COMPARED, *LEARNING))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    target, drafter, prompts = harness.bundled(options.limit)
    recorded, texts = recording(target, drafter, prompts, options.max_new_tokens)
    trace = Trace(texts, target.vocab_size, lambda: drafter)
    found = {
        "prompts_sha256": digest(prompts),
        "max_new_tokens": options.max_new_tokens,
        "num_texts": len(texts),
        "num_positions": len(trace.positions),
        "a_live_over_replay": against_live(target, drafter, options.policies, trace),
        "b_recording_over_plain": recorded,
    }
    harness.finish("replay", options, found)


if __name__ == "__main__":
    main()
