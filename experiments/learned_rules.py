"""Every learned rule beside fixed drafts and thresholds, replayed and live.

Question: on prompts that nothing was trained or tuned on, what does each rule make in tokens a
second, which of it is sure, and what share of the headroom is that? Is the order of AdaEAGLE's
paper found: LDLP at least as fast as the best fixed length, LDLP with a threshold at least as fast
as LDLP? Are labels of dynamic programming better than the paper's?
Setting: `mini` with its bundled predictors and cost table, float32, one thread. Fixed drafts and
thresholds are chosen on the `tune` prompts of a trace, in replay; everything is reported on its
`test` prompts: replayed with the time of a policy's own decisions as measured there, and live, all
policies in turns. Chains and trees are each held against the best fixed draft of their family.
Expected: thresholds and LDLP near the best constant, `cost_aware` above it.

    adaeagle trace --dtype float32 --out runs/trace-mini
    python -m experiments.learned_rules --trace runs/trace-mini --out runs/learned-rules

Finished parts are kept, the live one a prompt at a time. The last line of stdout is the result.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from adaeagle.bench import provenance
from adaeagle.bench.headroom import chain_family, eagle2_family, headroom
from adaeagle.bench.records import PromptRecord
from adaeagle.bench.statistics import bootstrap_ratio
from adaeagle.bundled import BUNDLED
from adaeagle.cost import CostModel
from adaeagle.prompts import read_prompts
from adaeagle.registry import get_policy
from adaeagle.replay import replay
from adaeagle.splits import TEST, split_of
from adaeagle.trace.trace import Trace
from experiments import comparison, replaying
from experiments.commands.models import ModelOptions

CHAIN, TREE = "chain", "eagle2"
LDLP_DP = "predictor='mini/ldlp_dp'"

GRIDS: dict[str, tuple[str, Sequence[float]]] = {
    "cumulative": ("cumulative(log_threshold={})", (-1.0, -2.0, -3.0, -4.0, -5.0, -6.0)),
    "confidence": ("confidence(threshold={})", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)),
    "ldlp": ("ldlp(offset={})", (-3.0, -2.0, -1.0, 0.0, 1.0)),
    "ldlp_dp": (f"ldlp({LDLP_DP}, offset={{}})", (-3.0, -2.0, -1.0, 0.0, 1.0)),
    "ldlp_ddd": ("ldlp_ddd(offset=-2.0, log_threshold={})", (-0.6, -1.5, -3.0, -4.0)),
    "ldlp_ddd_dp": (
        f"ldlp_ddd({LDLP_DP}, offset=-2.0, log_threshold={{}})",
        (-0.6, -1.5, -3.0, -4.0),
    ),
    "specdec_pp": ("specdec_pp(max_risk={})", (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)),
    "disco": ("disco(threshold={})", (0.6, 0.7, 0.8, 0.85, 0.9, 0.95)),
}
"""Rules and their thresholds; on chains of 16 and on the best fixed tree, made deeper."""

UNTUNED = ("hf_dynamic", "cost_aware")
PAPER = ("ldlp()", "ldlp_ddd()")
"""As published, with no offset and a log-threshold of -0.6."""


def on_chain(rule: str) -> str:
    return f"chain(length=16, stop={rule})"


def on_tree(rule: str, depth: int, width: int, nodes: int) -> str:
    return f"eagle2(depth={depth}, width={width}, nodes={nodes}, stop={rule})"


def speed(spec: str, trace: Trace, cost: CostModel) -> float:
    """Tokens a second in replay; prefill, and time to decide, are left out."""
    rounds = replay(get_policy(spec), trace, cost).rounds
    return float(
        rounds.num_emitted.sum() / cost.round_seconds(rounds.shapes(trace.positions)).sum()
    )


def tuned(trace: Trace, cost: CostModel) -> dict[str, Any]:
    """The best fixed draft of each family, and every arm's spec with its best threshold."""
    families = {CHAIN: chain_family(), TREE: eagle2_family()}
    fixed = {name: headroom(name, own, trace, cost).baseline for name, own in families.items()}
    tree = get_policy(fixed[TREE])
    shape = {"depth": tree.depth + 2, "width": tree.width, "nodes": tree.nodes}  # type: ignore[attr-defined]
    arms: dict[str, list[str]] = {name: [spec] for name, spec in fixed.items()}
    scores: dict[str, float] = {}
    for template, values in GRIDS.values():
        rules = [template.format(value) for value in values]
        for name, specs in (
            (CHAIN, [on_chain(rule) for rule in rules]),
            (TREE, [on_tree(rule, **shape) for rule in rules]),
        ):
            scores |= {spec: speed(spec, trace, cost) for spec in specs}
            arms[name].append(max(specs, key=scores.__getitem__))
            print(f"{arms[name][-1]}: {scores[arms[name][-1]]:.1f} tokens/s", file=sys.stderr)
    for rule in UNTUNED:
        arms[CHAIN].append(on_chain(rule))
        arms[TREE].append(on_tree(rule, **shape))
    arms[CHAIN] += [on_chain(rule) for rule in PAPER]
    lengths = ", ".join(f"chain(length={k})" for k in (2, 4, 8, 12))
    arms[CHAIN] += [f"{kind}({lengths}, cost='mini')" for kind in ("ucb", "thompson")]
    nodes, depth, width = tree.nodes, tree.depth, tree.width  # type: ignore[attr-defined]
    specs = [
        f"c2t(depth={depth}, width={width}, nodes={nodes}, threshold={threshold})"
        for threshold in (0.0, 0.02, 0.05, 0.1)
    ]
    scores |= {spec: speed(spec, trace, cost) for spec in specs}
    arms[TREE].append(max(specs, key=scores.__getitem__))
    return {"fixed": fixed, "arms": arms, "tune_tokens_per_second": scores}


def live(specs: Sequence[str], prompts: str, out: Path, max_new_tokens: int) -> list[PromptRecord]:
    """All policies on all prompts, in turns, or the rest of that."""
    test = out / "test.jsonl"
    if not test.is_file():
        known = read_prompts(prompts)
        splits = split_of(known)
        chosen = [asdict(prompt) for prompt in known if splits[prompt.id] == TEST]
        test.write_text("".join(json.dumps(each) + "\n" for each in chosen), encoding="utf-8")
    settings = comparison.Settings(
        models=ModelOptions(dtype="float32", threads=torch.get_num_threads()),
        policies=specs,
        prompts=str(test),
        max_new_tokens=max_new_tokens,
        out=out / "live",
    )
    comparison.compare(settings, as_json=True)
    lines = (out / "live" / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [PromptRecord.from_json(json.loads(line)) for line in lines]


def told(records: Sequence[PromptRecord], spec: str, fixed: str) -> dict[str, Any]:
    """One arm's tokens a second, and against the best fixed draft of its family."""
    ours, theirs = (
        [(record.arms[name].num_tokens, record.arms[name].seconds) for record in records]
        for name in (spec, fixed)
    )
    speeds = [sum(n for n, _ in side) / sum(s for _, s in side) for side in (ours, theirs)]
    arms = [record.arms[spec] for record in records]
    interval = bootstrap_ratio(ours, theirs)
    return {
        "tokens_per_second": round(speeds[0], 1),
        "over_fixed": round(speeds[0] / speeds[1], 4),
        "over_fixed_ci95": None if interval is None else [round(each, 4) for each in interval],
        "decision_share": round(
            sum(arm.policy_seconds for arm in arms) / sum(arm.seconds for arm in arms), 4
        ),
    }


def lead(records: Sequence[PromptRecord], spec: str) -> dict[str, Any]:
    """How many times as fast as an arm `cost_aware` is, on a chain."""
    found = told(records, on_chain("cost_aware"), spec)
    return {"ratio": found["over_fixed"], "ci95": found["over_fixed_ci95"]}


def run(trace_path: Path, out: Path, max_new_tokens: int) -> dict[str, Any]:
    """Tunes, replays, runs live, and puts it all together."""
    out.mkdir(parents=True, exist_ok=True)
    folder = replaying.open_trace(trace_path)
    plan = out / "tuned.json"
    if not plan.is_file():
        found = tuned(replaying.load_trace(folder, "tune", ""), CostModel.load("mini"))
        plan.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    chosen = json.loads(plan.read_text(encoding="utf-8"))
    specs = [spec for own in chosen["arms"].values() for spec in own]
    # First what may be interrupted, and then goes on where it was.
    lived = live(specs, folder.manifest.prompts, out, max_new_tokens)
    settings = replaying.Settings(
        trace=trace_path,
        policies=specs,
        cost=BUNDLED / "mini" / "cost.json",
        split=TEST,
        out=out / "replay",
    )
    replayed, whole = replaying.replay_policies(settings)
    recovered = {arm["policy"]: arm["headroom_recovered"] for arm in whole["arms"]}
    return {
        "experiment": "learned_rules",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "trace_sha256": folder.manifest.digest,
        "num_prompts": len(lived),
        "max_new_tokens": {"replay": folder.manifest.max_new_tokens, "live": max_new_tokens},
        "oracle": whole["oracle"],
        "tuned": chosen,
        "arms": [
            {
                "family": family,
                "policy": spec,
                "replay": {
                    **told(replayed, spec, chosen["fixed"][family]),
                    "headroom_recovered": recovered[spec],
                },
                "live": told(lived, spec, chosen["fixed"][family]),
                "cost_aware_over_it": {
                    "replay": lead(replayed, spec),
                    "live": lead(lived, spec),
                },
            }
            for family, own in chosen["arms"].items()
            for spec in own
        ],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trace", type=Path, required=True, help="of mini's bundled prompts")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="of each live answer")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    result = run(options.trace, options.out, options.max_new_tokens)
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
