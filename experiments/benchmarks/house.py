"""Whether a change of the code costs speed: this tree against another tree of the repository.

Question: seconds of whole texts, new over old, plain, on a chain and on a tree, for a target and
its head. Setting: the other tree runs in a process of its own with its own PYTHONPATH and is told
what to decode over a pipe; the two decode the same prompt in turns, so that a machine that slows
down slows both, and who begins alternates. Figures are medians of the pairs' ratios with bootstrap
intervals over pairs. Texts must be equal.

    git worktree add ../old 5a69c14
    python -m experiments.benchmarks.house --old ../old --out house.json

The last line of stdout is the result as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np

from experiments.benchmarks import harness

POLICIES = ("vanilla", "chain(length=5)", "eagle2")
WORKER = """
import json, sys, time, torch, adaeagle
torch.set_num_threads(int(sys.argv[4]))
target = adaeagle.Target.from_pretrained(sys.argv[1], max_length=512)
drafter = adaeagle.EagleDrafter.from_pretrained(sys.argv[2], target)
print("ready", flush=True)
for line in sys.stdin:
    told = json.loads(line)
    start = time.perf_counter()
    out = adaeagle.generate(
        target, drafter, told["policy"], told["prompt"],
        max_new_tokens=int(sys.argv[3]), stop_token_ids=[],
    )
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "token_ids": out.token_ids}), flush=True)
"""


class Worker:
    """A process that decodes with the code of one tree."""

    def __init__(self, tree: Path, options: argparse.Namespace) -> None:
        given = [options.target, options.drafter, str(options.tokens), str(options.threads)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(tree)},
            cwd=tree,
        )
        self._read()

    def _read(self) -> str:
        pipe: IO[str] | None = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self._process.wait()}")
        return line

    def decode(self, policy: str, prompt: list[int]) -> dict[str, Any]:
        """Seconds and tokens of a text."""
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps({"policy": policy, "prompt": prompt}) + "\n")
        pipe.flush()
        found: dict[str, Any] = json.loads(self._read())
        return found

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def ratio(workers: list[Worker], policy: str, prompts: list[list[int]]) -> dict[str, Any]:
    """New over old, of pairs of texts."""
    ratios, num_equal = [], 0
    for number, prompt in enumerate(prompts):
        order = (0, 1) if number % 2 else (1, 0)
        found = {which: workers[which].decode(policy, prompt) for which in order}
        if number == 0:  # what is made once is made now
            continue
        ratios.append(found[0]["seconds"] / found[1]["seconds"])
        num_equal += found[0]["token_ids"] == found[1]["token_ids"]
    summary = harness.summary(ratios)
    return {
        "ratio": summary["median"],
        "ci95": summary["ci95"],
        "num_pairs": summary["n"],
        "num_equal_texts": num_equal,
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--target", default="mini")
    parser.add_argument("--drafter", default="mini")
    parser.add_argument("--vocab", type=int, default=1000, help="prompts are of smaller ids")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    here = Path(__file__).parents[2]
    workers = [Worker(tree.resolve(), options) for tree in (here, options.old)]
    generator = np.random.default_rng(0)
    prompts = [generator.integers(5, options.vocab, 24).tolist() for _ in range(options.pairs + 1)]
    ratios = {policy: ratio(workers, policy, prompts) for policy in POLICIES}
    for worker in workers:
        worker.close()
    given = {name: getattr(options, name) for name in ("target", "drafter", "tokens", "threads")}
    harness.finish("house", options, given | {"new_over_old": ratios})


if __name__ == "__main__":
    main()
