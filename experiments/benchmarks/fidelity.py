"""Whether a replay under a cost table predicts what the machine does.

Question: are the speed-ups that `adaeagle replay` predicts those that `adaeagle compare` measures,
for fixed chains and trees, stop rules and a rule that learns; are the rounds the very same; and do
both rank policies alike?
Setting: texts are recorded first. Then every text is decoded live under every policy, in an order
that rotates, in float32 on one thread; after each of these a text of the profile is measured and a
policy's hooks are timed on recorded rounds, so that prediction and measurement meet the same
machine. At the end all texts are replayed under the cost table of this same run. Intervals are
bootstraps over prompts; `ratio` is the predicted speed-up over the measured one, drawn together.
Expected: rounds equal, near-ties apart; every ratio within 0.9 and 1.1; no two policies whose
measured intervals lie apart change places.

    python -m experiments.benchmarks.fidelity --out fidelity.json

The last line of stdout is the result as JSON.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from adaeagle import EagleDrafter, Generation, Policy, Target, generate
from adaeagle.bench.divergence import first_difference
from adaeagle.bench.records import ArmRecord
from adaeagle.bench.replayed import arm_records
from adaeagle.bench.runner import BASELINE, make_arms
from adaeagle.bench.statistics import bootstrap_ratio
from adaeagle.cost.grid import Grid
from adaeagle.cost.model import CostModel
from adaeagle.cost.profiler import Profiler
from adaeagle.cost.tally import Tally
from adaeagle.data.prompts import digest
from adaeagle.models.fingerprint import fingerprint
from adaeagle.replay.replay import replay, texts_of, time_hooks
from adaeagle.trace.recorder import Recorder
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from experiments.benchmarks import harness
from experiments.runs.compare import DEMO_MAX_NEW_TOKENS, DEMO_NUM_PROMPTS, LEARNED
from experiments.runs.compare import POLICIES as COMPARED

POLICIES = (
    *COMPARED,
    *LEARNED,
    "chain(length=12, stop=entropy(threshold=1.0))",
    "hf_heuristic",
    "eagle2(depth=6, width=10, nodes=24, stop=confidence(threshold=0.05))",
)
"""What `demo` runs, and a rule that reads entropies, one that learns, one that prunes a tree."""

CONTEXTS = (64, 160, 320)
FEWEST = 3
"""Samples that every cell of the cost table gets."""

HOOKS = 6
"""Rounds of each text in which a policy's hooks are timed."""

PARTS = ("prefill", "draft", "verify", "other", "policy")

NEAR_TIE = 1e-5
"""Of log-probabilities; forwards of different width round differently."""


@dataclass(slots=True)
class Measured:
    """Live runs of every arm, and what was measured between them."""

    tally: Tally
    answers: dict[str, list[Generation]] = field(default_factory=lambda: defaultdict(list))
    hook_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def run_live(
    target: Target,
    drafter: EagleDrafter,
    arms: dict[str, Policy],
    texts: Sequence[RecordedText],
    contexts: Sequence[int],
) -> Measured:
    """Every text under every arm, with a text of the profile after each."""
    grid = Grid(contexts=tuple(contexts))
    prompts = [text.prompt_ids.tolist() for text in texts]
    profiler = Profiler(target, drafter, grid, prompts)
    profiler.warm_up()
    profile = profiler.texts()
    for policy in arms.values():
        generate(target, drafter, deepcopy(policy), prompts[0], max_new_tokens=texts[0].limit)
    measured = Measured(Tally(grid))
    names = list(arms)
    for number, text in enumerate(texts):
        alone = Trace([text], target.vocab_size, lambda: drafter)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            prompt = text.prompt_ids.tolist()
            out = generate(target, drafter, arms[name], prompt, max_new_tokens=text.limit)
            measured.answers[name].append(out)
            measured.tally.add(next(profile))
            hooks = time_hooks(deepcopy(arms[name]), alone, None, HOOKS)
            measured.hook_seconds[name].append(float(hooks.mean()))
        print(f"{number + 1} of {len(texts)} texts", file=sys.stderr)
    while measured.tally.share(FEWEST) < 1:
        measured.tally.add(next(profile))
    return measured


def by_prompt(texts: Sequence[RecordedText], answers: Sequence[Generation]) -> dict[str, ArmRecord]:
    """One record a prompt, all turns together."""
    found: dict[str, list[Generation]] = defaultdict(list)
    for text, answer in zip(texts, answers, strict=True):
        found[text.prompt_id].append(answer)
    return {prompt_id: ArmRecord.of(own) for prompt_id, own in found.items()}


def target_ties(measured: Measured, texts: Sequence[RecordedText]) -> list[dict[str, Any]]:
    """Live texts that are not the recorded one, with the target's gap where they part."""
    found = []
    for name, answers in measured.answers.items():
        for text, answer in zip(texts, answers, strict=True):
            place = first_difference(answer.token_ids, text.token_ids.tolist())
            if place is not None:
                best = text.top_log_probs[place]
                gap = float(best[0] - best[1])
                found.append({"policy": name, "prompt": text.prompt_id, "gap": gap})
    return found


def draft_ties(name: str, policy: Policy, trace: Trace, measured: Measured) -> list[dict[str, Any]]:
    """Texts whose live rounds are not the replayed ones, with the draft's gap where they part.

    The gap is the least one between the log-probabilities of children recorded next to each other
    at that position: below `NEAR_TIE` either order is right.
    """
    found = []
    envelope = trace.envelope
    answers = zip(trace.texts, measured.answers[name], strict=True)
    for (text, answer), rounds in zip(answers, texts_of(replay(policy, trace), trace), strict=True):
        is_equal = answer.token_ids == text.token_ids.tolist()
        live = [(r.depth, r.num_drafted, r.num_verified, r.num_accepted) for r in answer.rounds]
        columns = (rounds.depth, rounds.num_drafted, rounds.num_verified, rounds.num_accepted)
        place = first_difference(live, list(zip(*(c.tolist() for c in columns), strict=True)))
        if is_equal and place is not None:
            nodes = envelope.positions == rounds.rows[place]
            gaps = -envelope.log_probs[nodes].diff(dim=1)
            gap = float(gaps[gaps >= 0].min())
            found.append({"policy": name, "prompt": text.prompt_id, "round": place, "gap": gap})
    return found


def compare(
    arms: dict[str, Policy], trace: Trace, measured: Measured, cost: CostModel
) -> dict[str, Any]:
    """Predicted against measured, an entry an arm, and how they rank."""
    texts = trace.texts
    live = {name: by_prompt(texts, measured.answers[name]) for name in arms}
    replayed = {}
    for name, policy in arms.items():
        hooks = torch.tensor(measured.hook_seconds[name])
        decides = float(hooks.clamp(max=3 * float(hooks.median())).mean())  # as `policy_seconds`
        rounds = replay(deepcopy(policy), trace, cost)
        replayed[name] = arm_records(rounds, trace, cost, decides)
    ties = [tie for name, arm in arms.items() for tie in draft_ties(name, arm, trace, measured)]
    prompts = list(live[BASELINE])

    def of(records: dict[str, ArmRecord]) -> list[ArmRecord]:
        return [records[prompt] for prompt in prompts]

    base = (of(live[BASELINE]), of(replayed[BASELINE]))
    found = [
        {
            "policy": name,
            "num_rounds": sum(len(arm.depth) for arm in of(live[name])),
            **_speeds(of(live[name]), of(replayed[name]), base),
        }
        for name in arms
    ]
    return {
        "num_prompts": len(prompts),
        "num_texts": len(texts),
        "target_near_ties": target_ties(measured, texts),
        "draft_near_ties": [tie for tie in ties if tie["gap"] < NEAR_TIE],
        "unexplained": [tie for tie in ties if tie["gap"] >= NEAR_TIE],
        "arms": found,
        "outside_10_percent": [arm["policy"] for arm in found if abs(arm["ratio"] - 1) > 0.1],
        "ranked_otherwise": ranked_otherwise(found),
    }


def _speeds(
    live: Sequence[ArmRecord],
    replayed: Sequence[ArmRecord],
    base: tuple[Sequence[ArmRecord], Sequence[ArmRecord]],
) -> dict[str, Any]:
    """Speed-ups over the baseline's records, their ratio, and the parts they are made of."""
    sides = {"measured": (live, base[0]), "predicted": (replayed, base[1])}
    found: dict[str, Any] = {}
    for side, (own, plain) in sides.items():
        ours = [(arm.num_tokens, arm.seconds) for arm in own]
        theirs = [(arm.num_tokens, arm.seconds) for arm in plain]
        found[side] = {
            "speedup": sum(arm.seconds for arm in plain) / sum(arm.seconds for arm in own),
            "ci95": bootstrap_ratio(ours, theirs),
            "ms": {part: 1000 * sum(getattr(a, f"{part}_seconds") for a in own) for part in PARTS},
        }
    found["ratio"] = found["predicted"]["speedup"] / found["measured"]["speedup"]
    found["ratio_ci95"] = ratio_interval(*([a.seconds for a in s] for s in (live, replayed, *base)))
    return found


def ratio_interval(*seconds: Sequence[float]) -> list[float]:
    """Of the predicted over the measured speed-up.

    Args:
        seconds: of each prompt: live, replayed, and the baseline's live and replayed.
    """

    def ratio(live: Any, replayed: Any, live_base: Any, replayed_base: Any) -> Any:
        predicted = harness.ratio_of_totals(replayed_base, replayed)
        return predicted / harness.ratio_of_totals(live_base, live)

    return harness.interval(ratio, *seconds)


def ranked_otherwise(arms: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Pairs whose measured intervals lie apart and whose predictions are the other way round."""
    return [
        [slow["policy"], fast["policy"]]
        for slow in arms
        for fast in arms
        if slow["measured"]["ci95"][1] < fast["measured"]["ci95"][0]
        and slow["predicted"]["speedup"] > fast["predicted"]["speedup"]
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--limit", type=int, default=DEMO_NUM_PROMPTS, help="prompts")
    parser.add_argument("--max-new-tokens", type=int, default=DEMO_MAX_NEW_TOKENS)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS, help="of the profile")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    target, drafter, prompts = harness.bundled(options.limit)
    arms = make_arms(POLICIES)
    recorder = Recorder(target, drafter, max_new_tokens=options.max_new_tokens)
    texts = [text for prompt in prompts for text in recorder.record(prompt)]
    measured = run_live(target, drafter, arms, texts, options.contexts)
    cost = measured.tally.model({})
    trace = Trace(texts, target.vocab_size, lambda: drafter)
    found = {
        "target": fingerprint(target.model),
        "prompts_sha256": digest(prompts),
        "max_new_tokens": options.max_new_tokens,
        "grid": asdict(measured.tally.grid),
        "num_profile_rounds": measured.tally.num_rounds,
        **compare(arms, trace, measured, cost),
        "cost": cost.to_json(),
    }
    result = harness.finish("fidelity", options, found, unprinted=["cost"])
    if result["unexplained"]:
        sys.exit("replayed rounds are not the live ones")


if __name__ == "__main__":
    main()
