"""Every learned rule beside fixed drafts and thresholds, replayed and live.

Question: on prompts that nothing was trained or tuned on, what does each rule make in tokens a
second, which of it is sure, and what share of the headroom is that? Is the order of AdaEAGLE's
paper found: LDLP at least as fast as the best fixed length, LDLP with a threshold at least as fast
as LDLP? Are labels of dynamic programming better than the paper's?
Setting: `mini` with its bundled predictors and cost table, float32, one thread. Fixed drafts and
thresholds are chosen on the `tune` prompts of a trace, in replay; everything is reported on its
`test` prompts: live, all policies in turns, and replayed with the time of a policy's own decisions
as measured there. Chains and trees are each held against the best fixed draft of their family.
A rule on trees has the choice, on `tune`, of how much room its tree leaves it.
Expected: thresholds and LDLP near the best constant, `cost_aware` above it.

    adaeagle trace --dtype float32 --out runs/trace-mini
    python -m experiments.benchmarks.learned_rules --trace runs/trace-mini --out runs/learned-rules

It has three parts, each of which does what is left of those before it: `--until tuned`, `--until
live`, `--until replayed`. What is finished is kept, a policy at a time in the first and a prompt at
a time in the second, which `--seconds` ends in time; the same command goes on. A folder is of one
set of predictors, prices, prompts and code: where they change, another is asked for. The last line
of stdout is the result.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import torch

from adaeagle.bench import provenance
from adaeagle.bench.records import PromptRecord
from adaeagle.bench.statistics import bootstrap_ratio
from adaeagle.cost.model import CostModel
from adaeagle.data.bundled import BUNDLED
from adaeagle.data.files import difference, write_whole
from adaeagle.data.prompts import read_prompts
from adaeagle.data.splits import TEST, split_of
from adaeagle.registry import get_policy
from adaeagle.replay.headroom import chain_family, eagle2_family, headroom
from adaeagle.replay.replay import replay
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.trace import Trace
from experiments.runs import compare as comparison
from experiments.runs import replay as replaying
from experiments.runs.models import ModelOptions

CHAIN, TREE, PLAIN = "chain", "eagle2", "vanilla"
PARTS = TUNED, LIVE, REPLAYED = ("tuned", "live", "replayed")

CODE = ("adaeagle", "policies", "predictors")
MODEL_FILES = (".json", ".jsonl", ".safetensors")
"""What a run is made of."""

OFFSETS = (-3.0, -2.0, -1.0, 0.0, 1.0)
OFFSETS_AND_LOGS = tuple(product((-3.0, -2.0, -1.0), (-1.5, -3.0, -4.0, -5.0)))
DP = "predictor='mini/ldlp_dp', "
GRIDS: dict[str, list[str]] = {
    "cumulative": [f"cumulative(log_threshold={x})" for x in (-1.0, -2.0, -3.0, -4.0, -5.0, -6.0)],
    "confidence": [f"confidence(threshold={x})" for x in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)],
    "ldlp": [f"ldlp(offset={x})" for x in OFFSETS],
    "ldlp_dp": [f"ldlp({DP}offset={x})" for x in OFFSETS],
    "ldlp_ddd": [f"ldlp_ddd(offset={x}, log_threshold={y})" for x, y in OFFSETS_AND_LOGS],
    "ldlp_ddd_dp": [f"ldlp_ddd({DP}offset={x}, log_threshold={y})" for x, y in OFFSETS_AND_LOGS],
    "specdec_pp": [f"specdec_pp(max_risk={x})" for x in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)],
    "disco": [f"disco(threshold={x})" for x in (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)],
}
"""Rules and their thresholds; on chains of 16, and on trees with some room."""

DEEPEST, MOST_NODES = 8, 59

UNTUNED = ("hf_dynamic", "cost_aware")
PAPER = ("ldlp()", "ldlp_ddd()")
"""As published, with no offset and a log-threshold of -0.6."""
BANDITS = tuple(
    f"{kind}({', '.join(f'chain(length={k})' for k in (2, 4, 8, 12))})"
    for kind in ("ucb", "thompson")
)


def on_chain(rule: str) -> str:
    return f"chain(length=16, stop={rule})"


def on_trees(rule: str, fixed: str) -> list[str]:
    """On the best fixed tree made deeper, and where it has depth, or nodes too, in abundance."""
    tree: Any = get_policy(fixed)
    rooms = ((tree.depth + 2, tree.nodes), (DEEPEST, tree.nodes), (DEEPEST, MOST_NODES))
    return [
        f"eagle2(depth={depth}, width={tree.width}, nodes={nodes}, stop={rule})"
        for depth, nodes in rooms
    ]


def speed(spec: str, trace: Trace, cost: CostModel) -> float:
    """Tokens a second in replay; prefill, and time to decide, are left out."""
    rounds = replay(get_policy(spec), trace, cost).rounds
    return float(
        rounds.num_emitted.sum() / cost.round_seconds(rounds.shapes(trace.positions)).sum()
    )


class Tuner:
    """Speeds on the `tune` prompts, each kept as soon as it is known.

    Args:
        trace: of those prompts.
        path: of the speeds.
    """

    def __init__(self, trace: Trace, path: Path) -> None:
        self.trace = trace
        self.cost = CostModel.load("mini")
        self.path = path
        self.speeds: dict[str, float] = json.loads(path.read_bytes()) if path.is_file() else {}

    def best(self, specs: Sequence[str]) -> str:
        """The fastest of them."""
        for spec in specs:
            if spec not in self.speeds:
                self.speeds[spec] = speed(spec, self.trace, self.cost)
                _write(self.path, self.speeds)
        best = max(specs, key=self.speeds.__getitem__)
        print(f"{best}: {self.speeds[best]:.1f} tokens/s", file=sys.stderr)
        return best

    def best_fixed(self, family: str, members: Sequence[str]) -> str:
        return headroom(family, members, self.trace, self.cost).baseline


def tuned(tuner: Tuner) -> dict[str, Any]:
    """The best fixed draft of each family, and every arm's spec with its best threshold."""
    fixed = {
        CHAIN: tuner.best_fixed(CHAIN, chain_family()),
        TREE: tuner.best_fixed(TREE, eagle2_family()),
    }
    arms: dict[str, list[str]] = {name: [spec] for name, spec in fixed.items()}
    for rules in GRIDS.values():
        arms[CHAIN].append(tuner.best([on_chain(rule) for rule in rules]))
        trees = [spec for rule in rules for spec in on_trees(rule, fixed[TREE])]
        arms[TREE].append(tuner.best(trees))
    arms[CHAIN] += [on_chain(rule) for rule in (*UNTUNED, *PAPER)] + [*BANDITS]
    arms[TREE] += [tuner.best(on_trees(rule, fixed[TREE])) for rule in UNTUNED]
    tree: Any = get_policy(fixed[TREE])
    c2t = f"c2t(depth={tree.depth}, width={tree.width}, nodes={tree.nodes}, threshold={{}})"
    arms[TREE].append(tuner.best([c2t.format(x) for x in (0.0, 0.02, 0.05, 0.1)]))
    return {"fixed": fixed, "arms": arms, "tune_tokens_per_second": tuner.speeds}


def live(
    specs: Sequence[str], prompts: str, out: Path, max_new_tokens: int, seconds: float | None
) -> list[PromptRecord] | None:
    """All policies on all `test` prompts, in turns, or the rest of that; None: not all in time."""
    test = out / "test.jsonl"
    known = read_prompts(prompts)
    splits = split_of(known)
    chosen = [asdict(prompt) for prompt in known if splits[prompt.id] == TEST]
    test.write_text("".join(json.dumps(each) + "\n" for each in chosen), encoding="utf-8")
    settings = comparison.CompareSettings(
        models=ModelOptions(dtype="float32", threads=torch.get_num_threads()),
        policies=[PLAIN, *specs],
        prompts=str(test),
        max_new_tokens=max_new_tokens,
        seconds=seconds,
        out=out / "live",
    )
    records, _ = comparison.measure(settings)
    if len(records) == len(chosen):
        return records
    print(f"{len(records)} of {len(chosen)} prompts: the same command goes on", file=sys.stderr)
    return None


def compared(records: Sequence[PromptRecord], spec: str, fixed: str) -> dict[str, Any]:
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


def lead(records: Sequence[PromptRecord], ours: str, spec: str) -> dict[str, Any]:
    """How many times as fast as an arm `cost_aware` is."""
    found = compared(records, ours, spec)
    return {"ratio": found["over_fixed"], "ci95": found["over_fixed_ci95"]}


def begin(out: Path, folder: TraceFolder, max_new_tokens: int) -> None:
    """Makes the folder of a run, or finds that it is this run's.

    Raises:
        ValueError: it is of other predictors, prices, prompts, lengths or code.
    """
    out.mkdir(parents=True, exist_ok=True)
    root = BUNDLED.parents[1]
    code = [path for name in CODE for path in sorted((root / name).rglob("*.py"))]
    models = sorted(path for path in (BUNDLED / "mini").rglob("*") if path.suffix in MODEL_FILES)
    given = {
        "trace": folder.manifest.digest,
        "max_new_tokens": max_new_tokens,
        "code": _digest(code),
        "bundled": {str(path.relative_to(BUNDLED)): _digest([path]) for path in models},
    }
    path = out / "made_of.json"
    if path.is_file() and (found := json.loads(path.read_bytes())) != given:
        raise ValueError(
            f"out must be a folder without another run, {out} holds one: {difference(found, given)}"
        )
    _write(path, given)


def run(
    trace_path: Path, out: Path, max_new_tokens: int, until: str, seconds: float | None
) -> dict[str, Any] | None:
    """Tunes, runs live, replays, and puts it all together; None where it ends before."""
    folder = replaying.open_trace(trace_path)
    begin(out, folder, max_new_tokens)
    plan = out / "tuned.json"
    if not plan.is_file():
        trace = replaying.load_trace(folder, "tune", "")
        _write(plan, tuned(Tuner(trace, out / "tune_speeds.json")))
    chosen = json.loads(plan.read_bytes())
    specs = [spec for own in chosen["arms"].values() for spec in own]
    if until == TUNED:
        return None
    lived = live(specs, folder.manifest.prompts, out, max_new_tokens, seconds)
    if lived is None or until == LIVE:
        return None
    settings = replaying.ReplaySettings(
        trace=trace_path,
        policies=[PLAIN, *specs],
        cost=BUNDLED / "mini" / "cost.json",
        split=TEST,
        out=out / "replay",
    )
    replayed, whole = replaying.replay_policies(settings)
    recovered = {arm["policy"]: arm["headroom_recovered"] for arm in whole["arms"]}

    def arm(family: str, spec: str, fixed: str) -> dict[str, Any]:
        own = chosen["arms"].get(family, chosen["arms"][CHAIN])
        [ours] = (each for each in own if "cost_aware" in each)
        return {
            "family": family,
            "policy": spec,
            "replay": {**compared(replayed, spec, fixed), "headroom_recovered": recovered[spec]},
            "live": compared(lived, spec, fixed),
            "cost_aware_over_it": {
                "replay": lead(replayed, ours, spec),
                "live": lead(lived, ours, spec),
            },
        }

    fixed = chosen["fixed"]
    return {
        "experiment": "learned_rules",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "made_of": json.loads((out / "made_of.json").read_bytes()),
        "num_prompts": len(lived),
        "max_new_tokens": {"replay": folder.manifest.max_new_tokens, "live": max_new_tokens},
        "oracle": whole["oracle"],
        "tuned": chosen,
        "arms": [
            arm(PLAIN, PLAIN, fixed[CHAIN]),
            *(
                arm(family, spec, fixed[family])
                for family, own in chosen["arms"].items()
                for spec in own
            ),
        ],
    }


def _digest(paths: Sequence[Path]) -> str:
    return sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _write(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trace", type=Path, required=True, help="of mini's bundled prompts")
    parser.add_argument("--out", type=Path, required=True, help="folder of everything")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="of each live answer")
    parser.add_argument("--until", choices=PARTS, default=REPLAYED, help="the last part to do")
    parser.add_argument("--seconds", type=float, help="in which the live part is to stay")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    result = run(options.trace, options.out, options.max_new_tokens, options.until, options.seconds)
    if result is not None:
        _write(options.out / "result.json", result)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
