"""What inputs tell about acceptance, and what a rule could make of them.

Question: how many bits about the acceptance of a drafted token does each input hold beyond the
path's probability, and what share of the headroom could a rule with it recover; how much of the
headroom can no rule have, since nothing that is known before verification tells it?
Setting: the chains of a trace, its prompts for tuning. For each group of signals
(`predictors.data.signals`) a boosting model is fitted to the tokens that a verification would judge
and asked about the prompts it has not seen (cross-fitting in five parts of the prompts). Bits are
the fall of the log loss, a token. The rule goes on while the chain's predicted survival is at least
a threshold, which is chosen on the other parts; its time to decide is not charged, so it bounds
what a rule with these inputs can do. Intervals are bootstraps over prompts. `dp` knows the text
and takes the best length for each round; the best fixed chain is chosen on the other parts, too.
Controls: with shuffled labels nothing may be found; a wide network beside the boosting model shows
what depends on the kind of model.

    python -m experiments.benchmarks.signals runs/trace --cost cost.json --out signals.json

It shows one table and draws `signals.png` beside the result, which is the last line of stdout.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from adaeagle import Target
from adaeagle.cost.model import CostModel
from adaeagle.data.files import write_whole
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.trace import Trace
from experiments.benchmarks import harness
from experiments.benchmarks.signal_audit import EVERYTHING, NETWORK, PATH, SignalAudit, audit
from experiments.views.plot_style import COLOURS, png, tidy
from predictors.data.signals import token_classes


def run(
    trace: Trace, cost: CostModel, k_max: int, classes: Tensor | None, seed: int = 0
) -> dict[str, Any]:
    """The whole audit of a trace."""
    found = SignalAudit(trace, cost, k_max, classes, seed)
    groups = [name for name in found.signals if name != PATH]
    wanted: dict[str, tuple[Sequence[str], bool]] = {PATH: ((), False)}
    wanted |= {name: ((name,), False) for name in groups}
    cheap = [name for name in groups if name != "feature"]
    wanted["all but feature"] = (cheap, False)
    wanted[EVERYTHING], wanted[NETWORK] = (groups, False), (groups, True)
    arms = {}
    for name, (names, network) in wanted.items():
        arms[name] = found.chances(names, network=network)
        print(f"{name}: fitted", file=sys.stderr)
    return audit(found, arms, found.chances(groups, shuffled=True))


def table(result: Mapping[str, Any]) -> Table:
    """One row for each group of signals."""
    shown = Table("signals", "bits", "95 %", "tokens/s", "headroom", "95 %")
    for row in result["rows"]:
        low, high = row["bits_ci95"]
        worst, best = row["headroom_ci95"]
        shown.add_row(
            row["signals"],
            f"{row['bits']:.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{row['tokens_per_second']:.1f}",
            f"{row['headroom']:.0%}",
            f"{worst:.0%} to {best:.0%}",
        )
    return shown


def picture(result: Mapping[str, Any]) -> Figure:
    """Bits and headroom of each group, with intervals."""
    rows = result["rows"]
    figure = Figure(figsize=(10, 0.45 * len(rows) + 1.5), layout="constrained")
    columns = (
        ("bits", "bits about acceptance beyond the path's probability"),
        ("headroom", "share of the headroom that a rule could recover"),
    )
    for place, (key, title) in enumerate(columns):
        axes = figure.add_subplot(1, 2, place + 1)
        values = np.asarray([row[key] for row in rows])
        ends = np.asarray([row[f"{key}_ci95"] for row in rows])
        errors = np.abs(ends - values[:, None]).T
        axes.barh(range(len(rows)), values, xerr=errors, color=COLOURS[2])
        axes.set_yticks(range(len(rows)), [row["signals"] for row in rows] if place == 0 else [])
        axes.invert_yaxis()
        axes.set_xlabel(title)
        tidy(axes)
    return figure


def classes_of(folder: TraceFolder) -> Tensor | None:
    """The classes of the target's tokens; None where its tokenizer is not at hand."""
    try:
        tokenizer = Target.from_pretrained(folder.manifest.target).tokenizer
    except (OSError, ValueError):
        tokenizer = None
    if tokenizer is None:
        print("token classes are left out: the target's tokenizer is not there", file=sys.stderr)
        return None
    return token_classes(folder.manifest.vocab_size, lambda token: str(tokenizer.decode([token])))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = harness.parser(__doc__)
    parser.add_argument("trace", type=Path, help="folder of a trace")
    parser.add_argument("--cost", type=Path, help="cost table; default: cost.json of the trace")
    parser.add_argument("--split", default="tune", choices=("tune", "test", "all"))
    parser.add_argument("--k-max", type=int, default=12, help="tokens of the chains")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    folder = TraceFolder.open(options.trace)
    texts = list(folder.texts(split=None if options.split == "all" else options.split))
    trace = Trace(texts, folder.manifest.vocab_size)
    cost = CostModel.load(options.cost or options.trace / "cost.json")
    found = run(trace, cost, options.k_max, classes_of(folder), options.seed)
    console = Console(stderr=True)
    console.print(table(found))
    low, high = found["irreducible_ci95"]
    console.print(
        f"shuffled labels: {found['shuffled_bits']:+.4f} bits. What no rule with these inputs can "
        f"have: {found['irreducible']:.0%} of the headroom ({low:.0%} to {high:.0%})."
    )
    if options.out is not None:
        write_whole(options.out.with_suffix(".png"), png(picture(found)))
    about = {"trace": folder.manifest.digest, "split": options.split, "k_max": options.k_max}
    return harness.finish("signals", options, about | found)


if __name__ == "__main__":
    main()
