"""What a prompt takes through layers computed from their weights, and through the model's forward.

    python -m experiments.benchmarks.prefill --target smollm2

Both run in turns, in an order that changes; seconds are the process's own on the CPU. A ratio below
1 says that the layers computed from their weights take less.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from adaeagle import Target
from adaeagle.models.backbone import Form
from experiments.benchmarks.harness import finish, parser, summary

FORMS: tuple[Form, Form] = ("weights", "whole")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints and saves."""
    options = parser(__doc__)
    options.add_argument("--target", default="mini")
    options.add_argument("--lengths", type=int, nargs="+", default=[48, 160, 480])
    options.add_argument("--repeats", type=int, default=8)
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads)
    target = Target.from_pretrained(given.target, device="cpu", dtype=torch.float32)
    if target.body.form != "weights":
        raise SystemExit(f"--target must be of Llama's layers, got {given.target!r}")
    found = [_measured(target, length, given.repeats) for length in given.lengths]
    return finish("prefill", given, {"target": given.target, "lengths": found})


@torch.inference_mode()
def _measured(target: Target, length: int, repeats: int) -> dict[str, Any]:
    token_ids = torch.arange(length) * 7919 % target.vocab_size
    prompt = token_ids.tolist()
    seconds: dict[Form, list[float]] = {form: [] for form in FORMS}
    for turn in range(repeats + 1):
        for form in FORMS if turn % 2 else FORMS[::-1]:
            target.body.form = form
            spent = _seconds(lambda: target.begin(1, length + 1).prefill(prompt))
            if turn > 0:  # the first warms up
                seconds[form].append(spent)
    target.body.form = "weights"
    ratios = [own / other for own, other in zip(*seconds.values(), strict=True)]
    return {
        "tokens": length,
        "whole_ms": round(1e3 * median(seconds["whole"]), 1),
        "ratio": summary(ratios),
    }


def _seconds(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
