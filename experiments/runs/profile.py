"""A profile from its settings to its folder.

Question: how many seconds does each part of a round take here, by width, nodes and context?
Expected: verification costs little more than a plain step up to some nodes and climbs beyond; a
draft forward of ten nodes costs far less than ten of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from adaeagle.bench import provenance
from adaeagle.bench.run_folder import RunFolder
from adaeagle.cost.grid import Grid
from adaeagle.cost.model import CostModel
from adaeagle.cost.profiler import Profiler, TextTimes, lookup_seconds
from adaeagle.cost.tally import Tally
from adaeagle.data.prompts import Conversation
from experiments.errors import InputError, argument, reason
from experiments.runs.models import ModelOptions, Models, load_models
from experiments.runs.settings import check_prompts, load_prompts, open_folder, run_identity
from experiments.views.cost import cost_figure, main_figures
from experiments.views.plot_style import png

FEWEST = 3
"""Samples that every cell gets, however short the time."""


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """Settings of a profile; None: the grid's own."""

    models: ModelOptions = field(default_factory=ModelOptions)
    widths: Sequence[int] | None = None
    nodes: Sequence[int] | None = None
    contexts: Sequence[int] | None = None
    rounds: int = 15  # samples of every cell
    seconds: float | None = None  # instead
    prompts: str = "mini"
    limit: int | None = None
    seed: int = 0
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class ProfileResult:
    """A measured cost table and where it is written."""

    model: CostModel
    out: Path
    files: list[Path]
    num_rounds: int

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        return {"out": str(self.out), **main_figures(self.model)}


def profile(settings: ProfileSettings) -> ProfileResult:
    """Runs a profile, or the rest of an interrupted one, and writes its folder.

    Raises:
        InputError: a setting cannot be used.
    """
    if settings.seconds is not None and settings.seconds <= 0:
        raise InputError(f"--seconds must be > 0, got {settings.seconds}")
    prompts = load_prompts(settings.prompts, settings.limit)
    models = load_models(settings.models, needs_drafter=True, is_greedy=True)
    check_prompts(models.target, prompts, settings.prompts)
    grid = _grid(settings, models)
    token_ids = [Conversation(models.target, prompt).next_ids() or [] for prompt in prompts]
    profiler = _profiler(models, grid, token_ids, settings.seed)
    config = {
        **models.config,
        **{name: list(getattr(grid, name)) for name in Grid.__slots__},
        "prompts": settings.prompts,
        "limit": settings.limit,
        "seed": settings.seed,
    }
    identity = run_identity(config, prompts)
    folder = open_folder("profile", settings.out, identity)
    tally = _measured(folder, profiler, Tally(grid), settings)
    metadata = {
        **identity,
        "git": provenance.git(),
        "date": tally.ended,
        "num_texts": tally.num_texts,
        "num_rounds": tally.num_rounds,
        "seconds": tally.seconds,
    }
    model = replace(tally.model(metadata), lookup=lookup_seconds(models.target, token_ids))
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        model.save(folder.path / "cost.json")
        files = [folder.path / "cost.json", folder.write("cost.png", png(cost_figure(model)))]
    return ProfileResult(model, folder.path, files, tally.num_rounds)


def _grid(settings: ProfileSettings, models: Models) -> Grid:
    given = {"widths": settings.widths, "nodes": settings.nodes, "contexts": settings.contexts}
    chosen: dict[str, Any] = {
        name: tuple(sorted(set(values))) for name, values in given.items() if values
    }
    grid = Grid(**chosen)
    return grid if settings.contexts else grid.spread(models.target.max_length)


def _profiler(
    models: Models, grid: Grid, token_ids: Sequence[Sequence[int]], seed: int
) -> Profiler:
    assert models.drafter is not None
    try:
        return Profiler(models.target, models.drafter, grid, token_ids, seed=seed)
    except ValueError as error:  # it begins with the name of what does not fit
        raise InputError(f"--{reason(error)}") from error


def _measured(
    folder: RunFolder, profiler: Profiler, tally: Tally, settings: ProfileSettings
) -> Tally:
    """Measures until there is enough, with a bar on stderr; each text is kept when it ends."""
    with argument("--out", str(folder.path), "a folder of this same run", (OSError, ValueError)):
        for record in folder.records(TextTimes):
            tally.add(record)
    console = Console(stderr=True)
    if tally.num_texts:
        console.print(f"{tally.num_texts} texts were measured in {folder.path} by {tally.ended}")
    if _share(tally, settings) >= 1:
        return tally
    with console.status("warming up"):
        profiler.warm_up()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("rounds of every shape", total=1.0)
            for record in profiler.texts(tally.num_texts):
                with argument("--out", str(folder.path), "a folder with room", OSError):
                    folder.append(record)
                tally.add(record)
                share = _share(tally, settings)
                progress.update(task, completed=share)
                if share >= 1:
                    break
    except KeyboardInterrupt:
        console.print(
            f"interrupted: {tally.num_texts} texts are kept in {folder.path}; "
            "the same command goes on from there"
        )
        raise
    return tally


def _share(tally: Tally, settings: ProfileSettings) -> float:
    """How much has been measured of what was asked for; 1: all."""
    if settings.seconds is None:
        return tally.share(settings.rounds)
    return min(tally.share(FEWEST), tally.seconds / settings.seconds)
