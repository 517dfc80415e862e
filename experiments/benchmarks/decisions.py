"""What deciding takes of a round.

Question: the seconds of a policy's hooks as a share of those of its rounds, live between real
forwards, and in a replay, whose hooks run in a loop.
Setting: `mini` with its bundled predictors and cost table, one thread. Live, each prompt is
answered under all policies in turn, the order rotating, and each text's first round is left out,
since its draft model reads the prompt. Every rule stands beside its shape without a rule: that much
any policy pays, and what is added to its share is what the rule costs. In the replay hooks run one
round at a time and are timed every few prompts; draft and verification cost what the table says.
Shares are ratios of totals, with a bootstrap interval over prompts, or over timings in the replay.
A share is of everything that is decided in a round; `decision` is that of one answer: a policy is
asked before it drafts and before every draft forward.
Expected: at most 3 % a decision, and a round's together not much more.

    python -m experiments.benchmarks.decisions --out result.json

The last line of stdout is the result as JSON.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch

from adaeagle import EagleDrafter, Policy, Target, generate, get_policy
from adaeagle.bench.replayed import arm_records, policy_seconds
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import Conversation, Prompt, digest, spread
from adaeagle.replay.replay import replay
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.trace import Trace
from experiments.benchmarks import harness
from experiments.benchmarks.harness import interval, ratio_of_totals

CHAIN = "chain(length=12{})"
TREE = "eagle2(depth=6, width=4, nodes=16{})"
ON_BOTH = ("confidence", "ldlp", "specdec_pp(max_risk=0.5)", "disco(threshold=0.6)", "cost_aware")
ON_CHAINS = ("cumulative(log_threshold=-3.0)", "ldlp_ddd(offset=-2.0, log_threshold=-3.0)")
POLICIES = (
    CHAIN.format(""),
    *(CHAIN.format(f", stop={rule}") for rule in (*ON_BOTH, *ON_CHAINS, "hf_dynamic")),
    TREE.format(""),
    *(TREE.format(f", stop={rule}") for rule in ON_BOTH),
    TREE.format("").replace("eagle2", "c2t"),
)
ENVELOPE = ("chain(length=16)", "eagle2(depth=6, width=4)")
NUM_RECORDED = 6
"""Prompts that the replay times hooks on."""
NUM_TIMINGS = 12


@dataclass(frozen=True, slots=True)
class Spent:
    """Totals over some rounds."""

    hooks: float  # seconds
    whole: float  # seconds, hooks included
    num_rounds: int
    num_answers: int  # one before drafting and one for each draft forward


def of_text(target: Target, drafter: EagleDrafter, policy: Policy, ids: list[int], n: int) -> Spent:
    """One answer of `n` tokens, its first round left out."""
    rounds = generate(target, drafter, policy, ids, max_new_tokens=n).rounds[1:]
    hooks = sum(found.policy_seconds for found in rounds)
    seconds, depth = sum(found.seconds for found in rounds), sum(found.depth for found in rounds)
    return Spent(hooks, seconds, len(rounds), len(rounds) + depth)


def of_replay(policy: Policy, trace: Trace, cost: CostModel) -> Spent:
    """A whole trace, its hooks at the mean of some rounds."""
    decides = policy_seconds(policy, trace, cost)
    records = arm_records(replay(policy, trace, cost), trace, cost, decides).values()
    num_rounds = sum(len(found.num_emitted) for found in records)
    return Spent(
        sum(found.policy_seconds for found in records),
        sum(found.seconds - found.prefill_seconds for found in records),
        num_rounds,
        num_rounds + sum(sum(found.depth) for found in records),
    )


def columns(found: Sequence[Spent]) -> np.ndarray[Any, Any]:
    """Seconds of hooks, whole seconds, rounds and answers, [4, n]."""
    return np.asarray([astuple(spent) for spent in found]).T


def summary(found: Sequence[Spent]) -> dict[str, Any]:
    """The share over everything, and how sure it is."""
    hooks, whole, rounds, answers = columns(found)
    share = float(ratio_of_totals(hooks, whole))
    return {
        "share": round(share, 4),
        "decision": round(share * float(rounds.sum() / answers.sum()), 4),
        "ci95": interval(ratio_of_totals, hooks, whole),
        "hooks_ms": round(1000 * float(hooks.sum() / rounds.sum()), 3),
        "round_ms": round(1000 * float(whole.sum() / rounds.sum()), 3),
        "num_rounds": int(rounds.sum()),
    }


def bare(spec: str) -> str | None:
    """The fixed shape that a policy's rule cuts short, or its scores steer; None: it is none."""
    if spec.startswith("c2t("):
        return spec.replace("c2t(", "eagle2(", 1)
    shape, _, rule = spec.partition(", stop=")
    return f"{shape})" if rule else None


def added(found: Sequence[Spent], shape: Sequence[Spent]) -> dict[str, Any]:
    """What a rule's share is beyond that of its shape alone, over the same prompts."""

    def difference(hooks: Any, whole: Any, shape_hooks: Any, shape_whole: Any) -> Any:
        return ratio_of_totals(hooks, whole) - ratio_of_totals(shape_hooks, shape_whole)

    data = (*columns(found)[:2], *columns(shape)[:2])
    return {"added": round(float(difference(*data)), 4), "added_ci95": interval(difference, *data)}


def measure(
    target: Target,
    drafter: EagleDrafter,
    specs: Sequence[str],
    prompts: Sequence[Prompt],
    max_new_tokens: int,
) -> dict[str, dict[str, Any]]:
    """Live and replayed shares of each policy, everything in turns."""
    arms = {spec: get_policy(spec) for spec in specs}
    cost = CostModel.load("mini")
    recorder = Recorder(target, drafter, ENVELOPE, max_new_tokens)
    recorded = [text for p in spread(prompts, NUM_RECORDED) for text in recorder.record(p)]
    trace = Trace(recorded, target.vocab_size, lambda: drafter)
    live: dict[str, list[Spent]] = defaultdict(list)
    replayed: dict[str, list[Spent]] = defaultdict(list)
    for policy in arms.values():  # warms up
        of_replay(policy, trace, cost)
    every = max(1, len(prompts) // NUM_TIMINGS)
    for number, prompt in enumerate(prompts):
        ids = Conversation(target, prompt).next_ids()
        assert ids is not None
        first = number % len(specs)
        for spec in (*specs[first:], *specs[:first]):
            live[spec].append(of_text(target, drafter, arms[spec], ids, max_new_tokens))
            if number % every == 0:
                replayed[spec].append(of_replay(arms[spec], trace, cost))
        print(f"{number + 1} of {len(prompts)} prompts", file=sys.stderr)
    summaries: dict[str, dict[str, Any]] = {}
    for spec in specs:
        summaries[spec] = {"live": summary(live[spec]), "replay": summary(replayed[spec])}
        if (shape := bare(spec)) in arms:
            summaries[spec]["live"] |= added(live[spec], live[shape])
            summaries[spec]["replay"] |= added(replayed[spec], replayed[shape])
    return summaries


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--limit", type=int, default=24, help="prompts")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    target, drafter, prompts = harness.bundled(options.limit)
    measured = measure(target, drafter, options.policies, prompts, options.max_new_tokens)
    for spec, found in measured.items():
        live, in_replay = found["live"], found["replay"]
        more = f", of it the rule's {live['added']:.1%}" if "added" in live else ""
        print(
            f"{spec:72} live {live['share']:6.1%} ({live['hooks_ms']:.2f} of {live['round_ms']:.2f}"
            f" ms), a decision {live['decision']:.1%}{more}; "
            f"replay {in_replay['share']:6.1%} ({in_replay['hooks_ms']:.2f} ms)",
            file=sys.stderr,
        )
    found = {"prompts_sha256": digest(prompts), "max_new_tokens": options.max_new_tokens}
    harness.finish("decisions", options, found | {"policies": measured})


if __name__ == "__main__":
    main()
