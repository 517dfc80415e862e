"""What every benchmark does alike: options, models, intervals, and where its result goes."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaeagle import EagleDrafter, Target
from adaeagle.bench import provenance
from adaeagle.data.prompts import Prompt, read_prompts, spread

RESAMPLES = 2000


def parser(doc: str | None, *, threads: int | None = 1) -> ArgumentParser:
    """Options that all have: `--threads` and `--out`.

    Args:
        doc: of the module; its first line is the help.
        threads: of torch, where none are given; None: torch's own number.
    """
    found = ArgumentParser(description=(doc or "").partition("\n")[0])
    found.add_argument("--threads", type=int, default=threads or torch.get_num_threads())
    found.add_argument("--out", type=Path, help="where the result is saved too")
    return found


def bundled(num_prompts: int) -> tuple[Target, EagleDrafter, list[Prompt]]:
    """`mini` in float32, its head, and some of its prompts."""
    target = Target.from_pretrained("mini", dtype=torch.float32)
    prompts = spread(read_prompts("mini"), num_prompts)
    return target, EagleDrafter.from_pretrained("mini", target), prompts


def finish(
    name: str, options: Namespace, found: dict[str, Any], *, unprinted: Sequence[str] = ()
) -> dict[str, Any]:
    """Adds where a result comes from, saves it, and prints it as the last line of stdout."""
    result = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        **found,
    }
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key not in unprinted}))
    return result


def interval(
    statistic: Callable[..., Any], *columns: Sequence[float], digits: int = 4
) -> list[float]:
    """A 95 % bootstrap interval; entries of the same place are drawn together.

    Args:
        statistic: from the columns drawn, each [draws, n], to [draws] values.
        columns: [n] each.
        digits: kept.
    """
    data = np.asarray(columns, dtype=float)
    drawn = np.random.default_rng(0).integers(data.shape[1], size=(RESAMPLES, data.shape[1]))
    low, high = np.quantile(statistic(*data[:, drawn]), [0.025, 0.975])
    return [round(float(low), digits), round(float(high), digits)]


def ratio_of_totals(ours: Any, theirs: Any) -> Any:
    """A statistic for `interval`."""
    return ours.sum(-1) / theirs.sum(-1)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and its interval."""
    ci95 = interval(lambda drawn: np.median(drawn, axis=1), values, digits=3)
    return {"median": round(float(np.median(values)), 3), "ci95": ci95, "n": len(values)}
