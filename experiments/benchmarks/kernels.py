"""What a verification costs in plain steps, with torch's kernels and with those chosen per shape.

Question: how long do a plain step and verifications of 4 and of 8 rows take with `kernels="torch"`
and with `"auto"` (`adaeagle.models.kernels`), and an EAGLE head's forward of one node?
Setting: one model loaded twice, the same context in both; forwards take turns, so that a machine
that slows down slows all alike; ratios are within a turn, as median and bootstrap interval over
turns. Rows of a verification follow one another (a chain), the root among them.
Expected: a verification of 4 and of 8 rows costs at most 1.35 and 1.5 plain steps with `auto`, and
`auto`'s plain step is no slower than torch's.

    python -m experiments.benchmarks.kernels --target smollm2 --head smollm2 --out result.json

The last line of stdout is the result as JSON.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from adaeagle import EagleDrafter, Target
from adaeagle.models.kernels import Mode
from adaeagle.models.kv_cache import KVCache
from experiments.benchmarks import harness
from experiments.benchmarks.harness import summary

ROWS = (1, 2, 4, 8, 16, 32)
MODES: tuple[Mode, Mode] = ("torch", "auto")


def forwards(target: Target, context: int, mode: str) -> dict[str, Callable[[], object]]:
    """A forward of each number of rows, by name; each leaves the cache as it found it."""
    cache = target.new_cache(context + max(ROWS))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, target.vocab_size, (1, context), generator=generator)
    target.forward(ids, torch.arange(context).unsqueeze(0), None, cache)
    return {f"{mode}, {rows} rows": _verification(target, cache, rows) for rows in ROWS}


def _verification(target: Target, cache: KVCache, num_rows: int) -> Callable[[], object]:
    context = cache.length
    ids = torch.arange(1, num_rows + 1).unsqueeze(0)
    positions = torch.arange(context, context + num_rows).unsqueeze(0)
    mask = None
    if num_rows > 1:
        above = torch.full((num_rows, num_rows), torch.finfo(target.dtype).min).triu(1)
        mask = torch.cat((torch.zeros(num_rows, context), above), dim=1)[None, None]
        mask = mask.to(target.dtype)

    def run() -> object:
        cache.truncate(context)
        return target.logits(target.forward(ids, positions, mask, cache).last)

    return run


def head_forward(head: EagleDrafter, context: int) -> Callable[[], object]:
    """A draft forward of one node, with its output layer."""
    size = head.target.hidden_size
    cache = KVCache(head.head.layer_shapes(), context + 1)
    embeddings, states = (torch.randn(1, 1, size) for _ in range(2))
    positions = torch.full((1, 1), context)
    # Keys of a context: what they hold does not matter to the time.
    filled = torch.arange(context).unsqueeze(0)
    head.head(torch.randn(1, context, size), torch.randn(1, context, size), filled, None, cache)

    def run() -> object:
        cache.truncate(context)
        return head.logits(head.head(embeddings, states, positions, None, cache))

    return run


@torch.inference_mode()
def run(name: str, head: str | None, context: int, num_turns: int) -> dict[str, Any]:
    """Milliseconds of every forward, and the ratios between them."""
    runs: dict[str, Callable[[], object]] = {}
    for mode in MODES:
        target = Target.from_pretrained(name, kernels=mode, dtype=torch.float32)
        runs |= forwards(target, context, mode)
        if head is not None:
            drafter = EagleDrafter.from_pretrained(head, target)
            runs[f"{mode}, head"] = head_forward(drafter, context)
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(num_turns + 2):
        for key, forward in runs.items():
            begun = time.perf_counter()
            forward()
            if turn >= 2:  # the first ones warm up
                seconds[key].append(time.perf_counter() - begun)
    pairs = {
        f"{mode}: {what} over a plain step": (f"{mode}, {what}", f"{mode}, 1 rows")
        for mode in MODES
        for what in [f"{rows} rows" for rows in ROWS[1:]] + ["head"]
    } | {
        f"torch over auto: {what}": (f"torch, {what}", f"auto, {what}")
        for what in [f"{rows} rows" for rows in ROWS] + ["head"]
    }
    return {
        "least_ms": {key: round(1000 * min(found), 2) for key, found in seconds.items()},
        "ms": {key: summary([1000 * value for value in found]) for key, found in seconds.items()},
        "ratios": {
            pair: summary([a / b for a, b in zip(seconds[one], seconds[other], strict=True)])
            for pair, (one, other) in pairs.items()
            if one in seconds
        },
    }


def main() -> None:
    parser = harness.parser(__doc__, threads=None)
    parser.add_argument("--target", default="smollm2")
    parser.add_argument("--head", help="an EAGLE head, bundled or a folder")
    parser.add_argument("--context", type=int, default=200, help="tokens before the forward")
    parser.add_argument("--turns", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = run(options.target, options.head, options.context, options.turns)
    for pair, ratio in found["ratios"].items():
        print(f"{pair}: {ratio}")
    given = {name: getattr(options, name) for name in ("head", "context", "turns", "threads")}
    harness.finish("kernels", options, {"model": options.target} | given | found)


if __name__ == "__main__":
    main()
