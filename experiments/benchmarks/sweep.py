"""How long a sweep takes.

Question: how many seconds do a thousand trials of an `eagle2` sweep take, from the command's start
to its files?
Setting: the tune split of a trace of `mini` on the 88 bundled prompts, 256 tokens each; TPE;
Wilcoxon's test between blocks of prompts; processes of one thread each on one study in SQLite.
Expected: ten minutes at most on two cores.

    adaeagle trace --out runs/trace && adaeagle profile --threads 1 --out runs/profile
    python -m experiments.benchmarks.sweep --trace runs/trace --cost runs/profile/cost.json

The last line of stdout is the result as JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from adaeagle.trace.folder import TraceFolder
from experiments.benchmarks import harness


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The same command several times at once, on one study in one folder."""
    command = [
        *(sys.executable, "-m", "experiments.cli", "sweep", "--json"),
        *("--trace", str(options.trace), "--cost", str(options.cost)),
        *("--policies", options.policy, "--trials", str(options.trials)),
        *("--sampler", options.sampler, "--seed", str(options.seed)),
        *("--threads", str(options.threads), "--out", str(folder)),
    ]
    start = time.perf_counter()
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(options.processes)
    ]
    codes = [process.wait() for process in running]
    seconds = time.perf_counter() - start
    if any(codes):
        raise SystemExit(f"adaeagle sweep must succeed, got exit codes {codes}")
    return {"seconds": round(seconds, 1), **found_in(folder)}


def found_in(folder: Path) -> dict[str, Any]:
    """What the sweep came to, and what its trials took."""
    best = json.loads((folder / "best.json").read_bytes())
    trials = pyarrow.parquet.read_table(folder / "trials.parquet").to_pylist()
    done = [trial for trial in trials if trial["ended"] is not None]
    took = [(trial["ended"] - trial["began"]).total_seconds() for trial in done]
    replayed = [trial for trial in done if trial["tokens_per_second"] is not None]
    return {
        "num_trials": best["num_trials"],
        "num_policies": len({trial["policy"] for trial in replayed}),
        "num_stopped_early": sum(trial["judged_on"] is not None for trial in replayed),
        "num_refused": sum(bool(trial["refused"]) for trial in done),
        "median_trial_seconds": round(statistics.median(took), 4),
        "longest_trial_seconds": round(max(took), 3),
        "best": best["policy"],
        "best_found_at_trial": best["trial"],
        "speedup": round(best["speedup"], 4),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--cost", type=Path, required=True)
    parser.add_argument("--policy", default="eagle2")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = run(options, Path(folder))
    names = ("policy", "trials", "sampler", "processes", "seed")
    given = {name: getattr(options, name) for name in names}
    trace = {"trace_sha256": TraceFolder.open(options.trace).manifest.digest}
    harness.finish("sweep", options, trace | given | found)


if __name__ == "__main__":
    main()
