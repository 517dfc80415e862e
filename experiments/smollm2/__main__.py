"""`python -m experiments.smollm2 --out OUT`: trains the bundled heads for SmolLM2, about two hours.

Run again after a kill: finished stages are kept, an unfinished one goes on.
"""

import argparse
import json
import logging
from pathlib import Path

from adaeagle.data.bundled import BUNDLED
from experiments.smollm2.stages import Scale, SmolLM2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.smollm2", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument(
        "--bundle", type=Path, default=BUNDLED / "smollm2", help="folder of the finished heads"
    )
    parser.add_argument("--data", type=Path, help="folder of NAME.train.jsonl.gz, for more text")
    parser.add_argument(
        "--generate", type=float, default=0.0, metavar="SECONDS", help="of more text, on one core"
    )
    parser.add_argument("--steps", type=int, default=Scale().head_steps, help="of the head")
    parser.add_argument(
        "--tasks", type=Path, nargs="*", default=[], help="JSON Lines of prompts, for the card"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for folder in (given.out, given.bundle):
        folder.mkdir(parents=True, exist_ok=True)
    scale = Scale(generation_seconds=given.generate, head_steps=given.steps)
    making = SmolLM2(given.out, given.bundle, given.data, tuple(given.tasks), scale)
    print(json.dumps(making.make()))


if __name__ == "__main__":
    main()
