"""`python -m experiments.mini --data DATA --out OUT`: makes the bundled model, about two hours.

Run again after a kill: finished stages are kept, an unfinished one goes on.
"""

import argparse
import json
import logging
from pathlib import Path

from adaeagle.data.bundled import BUNDLED
from experiments.mini.stages import Mini


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.mini", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of NAME.train.jsonl.gz and NAME.heldout.*"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument(
        "--bundle", type=Path, default=BUNDLED / "mini", help="folder of the finished model"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for folder in (given.out, given.bundle):
        folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(Mini(given.data, given.out, given.bundle).make()))


if __name__ == "__main__":
    main()
