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

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaeagle import EagleDrafter, Target, generate, get_policy
from adaeagle.bench import provenance
from adaeagle.bench.replayed import arm_records
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Prompt, digest, read_prompts, spread
from adaeagle.replay.replay import replay
from adaeagle.trace.recorder import DEFAULT_ENVELOPE, Recorder
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
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
    drawn = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))
    ratios = np.asarray(ours)[drawn].sum(1) / np.asarray(theirs)[drawn].sum(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {
        "seconds": round(float(np.sum(ours)), 3),
        "plain_seconds": round(float(np.sum(theirs)), 3),
        "ratio": round(float(np.sum(ours) / np.sum(theirs)), 3),
        "ci95": [round(float(low), 3), round(float(high), 3)],
    }


def run(num_prompts: int, max_new_tokens: int, specs: Sequence[str]) -> dict[str, Any]:
    """Both parts on the bundled models."""
    target = Target.from_pretrained("mini", dtype=torch.float32)
    drafter = EagleDrafter.from_pretrained("mini", target)
    prompts = spread(read_prompts("mini"), num_prompts)
    recorded, texts = recording(target, drafter, prompts, max_new_tokens)
    trace = Trace(texts, target.vocab_size, lambda: drafter)
    return {
        "benchmark": "replay",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "prompts_sha256": digest(prompts),
        "max_new_tokens": max_new_tokens,
        "num_texts": len(texts),
        "num_positions": len(trace.positions),
        "a_live_over_replay": against_live(target, drafter, specs, trace),
        "b_recording_over_plain": recorded,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--limit", type=int, default=88, help="prompts")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--policies", nargs="+", default=(*COMPARED, *LEARNING))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the result is saved too")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    result = run(options.limit, options.max_new_tokens, options.policies)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
