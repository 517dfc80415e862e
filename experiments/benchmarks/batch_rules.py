"""Rules over texts side by side, replayed: tokens a second and waiting at several batch sizes.

Question: which rule makes the most tokens a second at each number of texts side by side, is any of
them never slower than the best fixed length there, and how long do texts wait?
Setting: single texts' traces and a cost table of `adaeagle profile --batch-sizes`; texts are all
there from the start, or arrive. What a policy takes to decide is not in the clock.
Expected: lengths shrink as texts are added; a rule with one price for all is never slower than the
best fixed length.

    python -m experiments.benchmarks.batch_rules --trace FOLDER --cost FILE --out result.json
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from adaeagle import get_policy
from adaeagle.cost.model import CostModel
from adaeagle.replay.batches import poisson, replay_batch
from adaeagle.trace.trace import Trace
from experiments.benchmarks import harness
from experiments.runs.replay import load_trace, open_trace
from experiments.views.batches import BatchPoint, batch_figure
from experiments.views.plot_style import png

FIXED = tuple(f"chain(length={length})" for length in (1, 2, 3, 4, 6, 8))
SIZES = (1, 2, 4, 8, 16)


def rules(cost: str) -> tuple[str, ...]:
    """Those compared, with the cost table that they read."""
    return (
        "vanilla",
        *FIXED,
        f"goodput(length=8, cost='{cost}')",
        f"batch_slots(length=8, cost='{cost}')",
        f"batch_select(chain(length=4, proposal='top_k'), cost='{cost}')",
        "batch_slots(length=8, total=16)",
    )


def arrivals(text: str, num_texts: int) -> list[float] | None:
    """`all` at once, `poisson:RATE` texts a second, or a JSON file of times in seconds.

    Raises:
        ValueError: it is none of these.
    """
    if text == "all":
        return None
    name, _, rate = text.partition(":")
    if name == "poisson":
        return poisson(num_texts, float(rate))
    times = json.loads(Path(text).read_text(encoding="utf-8"))
    return [float(time) for time in times[:num_texts]]


def point(
    spec: str, trace: Trace, cost: CostModel, size: int, times: Sequence[float] | None
) -> BatchPoint:
    """A policy at one batch size."""
    found = replay_batch(get_policy(spec), trace, cost, size, times)
    return BatchPoint(
        policy=spec,
        batch_size=size,
        tokens_per_second=found.tokens_per_second,
        mean_latency=float(found.latencies.mean()),
        late_latency=float(found.latencies.quantile(0.95)),
        accepted_share=found.accepted_share,
    )


def against_fixed(points: Sequence[BatchPoint]) -> dict[str, dict[int, float]]:
    """Each other policy's tokens a second over those of the best fixed length, by batch size."""
    best: dict[int, float] = {}
    for each in points:
        if each.policy in (*FIXED, "vanilla"):
            speed = each.tokens_per_second
            best[each.batch_size] = max(speed, best.get(each.batch_size, 0.0))
    ratios: dict[str, dict[int, float]] = {}
    for each in points:
        if each.policy not in FIXED:
            ratio = round(each.tokens_per_second / best[each.batch_size], 4)
            ratios.setdefault(each.policy, {})[each.batch_size] = ratio
    return ratios


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = harness.parser(__doc__)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--cost", required=True, help="a file, or a bundled table's name")
    parser.add_argument("--policies", nargs="*", help="instead of those compared")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--arrivals", default="all", help="all, poisson:RATE, or a file of times")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    trace, cost = load_trace(open_trace(options.trace), "all", ""), CostModel.load(options.cost)
    times = arrivals(options.arrivals, len(trace.texts))
    points = [
        point(spec, trace, cost, size, times)
        for spec in options.policies or rules(options.cost)
        for size in options.batch_sizes
    ]
    if options.out is not None:
        options.out.with_suffix(".png").write_bytes(png(batch_figure(points)))
    found = {
        "arrivals": options.arrivals,
        "num_texts": len(trace.texts),
        "over_best_fixed": against_fixed(points),
        "points": [asdict(each) for each in points],
    }
    return harness.finish("batch_rules", options, found, unprinted=["points"])


if __name__ == "__main__":
    main()
