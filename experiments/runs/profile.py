"""A profile from its settings to its folder.

Question: how many seconds does each part of a round take here, by width, nodes and context?
Expected: verification costs little more than a plain step up to some nodes and climbs beyond; a
draft forward of ten nodes costs far less than ten of one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from adaeagle.bench import provenance
from adaeagle.bench.run_folder import RunFolder
from adaeagle.cost.batches import of_each
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

LONGEST = 4
"""Times as many rounds as wanted are measured at most, where fewer give no table to rely on."""


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """Settings of a profile; None: the grid's own."""

    models: ModelOptions = field(default_factory=ModelOptions)
    widths: Sequence[int] | None = None
    nodes: Sequence[int] | None = None
    contexts: Sequence[int] | None = None
    batch_sizes: Sequence[int] = ()  # texts side by side, beside one alone
    rounds: int = 15  # samples of every cell
    seconds: float | None = None  # instead
    prompts: str = "mini"
    limit: int | None = None
    seed: int = 0
    out: Path | None = None
    overwrite: bool = False


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
        quality = self.model.about["quality"]
        return {"out": str(self.out), **main_figures(self.model), "quality": quality}


def profile(settings: ProfileSettings) -> ProfileResult:
    """Runs a profile, or the rest of an interrupted one, and writes its folder.

    Raises:
        InputError: a setting cannot be used.
    """
    if settings.seconds is not None and settings.seconds <= 0:
        raise InputError(f"--seconds must be > 0, got {settings.seconds}")
    prompts = load_prompts(settings.prompts, settings.limit)
    models = load_models(settings.models, needs_drafter=True, is_greedy=True)
    prompts = check_prompts(models.target, prompts, settings.prompts)
    grid = _grid(settings, models)
    token_ids = [Conversation(models.target, prompt).next_ids() or [] for prompt in prompts]
    sizes = sorted({1, *settings.batch_sizes})
    profilers = {size: _profiler(models, grid, token_ids, settings.seed, size) for size in sizes}
    config = {
        **models.config,
        **{name: list(getattr(grid, name)) for name in Grid.__slots__},
        "batch_sizes": sizes,
        "prompts": settings.prompts,
        "limit": settings.limit,
        "seed": settings.seed,
    }
    identity = run_identity(config, prompts, models.target)
    folder = open_folder("profile", settings.out, identity, anew=settings.overwrite)
    tallies = _measured(folder, profilers, grid, settings)
    metadata = {
        **identity,
        "git": provenance.git(),
        "quality": asdict(tallies[1].quality()),
        "date": max(tally.ended for tally in tallies.values()),
        **{
            name: sum(getattr(tally, name) for tally in tallies.values())
            for name in ("num_texts", "num_rounds", "seconds")
        },
    }
    batches = {size: of_each(tallies[size].model({}), size) for size in sizes[1:]}
    model = replace(
        tallies[1].model(metadata),
        lookup=lookup_seconds(models.target, token_ids),
        batches=batches,
    )
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        model.save(folder.path / "cost.json")
        files = [folder.path / "cost.json", folder.write("cost.png", png(cost_figure(model)))]
    return ProfileResult(model, folder.path, files, metadata["num_rounds"])


def _grid(settings: ProfileSettings, models: Models) -> Grid:
    given = {"widths": settings.widths, "nodes": settings.nodes, "contexts": settings.contexts}
    chosen: dict[str, Any] = {
        name: tuple(sorted(set(values))) for name, values in given.items() if values
    }
    grid = Grid(**chosen)
    return grid if settings.contexts else grid.spread(models.target.max_length)


def _profiler(
    models: Models, grid: Grid, token_ids: Sequence[Sequence[int]], seed: int, num_texts: int
) -> Profiler:
    assert models.drafter is not None
    try:
        return Profiler(
            models.target, models.drafter, grid, token_ids, seed=seed, num_texts=num_texts
        )
    except ValueError as error:  # it begins with the name of what does not fit
        raise InputError(f"--{reason(error)}") from error


def _measured(
    folder: RunFolder, profilers: dict[int, Profiler], grid: Grid, settings: ProfileSettings
) -> dict[int, Tally]:
    """Measures until there is enough, with a bar on stderr; each text is kept when it ends.

    Numbers of texts side by side take turns, so that a slow moment hits all of them alike.
    """
    tallies = {size: Tally(grid) for size in profilers}
    with argument("--out", str(folder.path), "a folder of this same run", (OSError, ValueError)):
        for record in folder.records(TextTimes):
            tallies[record.num_texts].add(record)
    console = Console(stderr=True)
    if num_before := sum(tally.num_texts for tally in tallies.values()):
        ended = max(tally.ended for tally in tallies.values())
        console.print(f"{num_before} texts were measured in {folder.path} by {ended}")
    rounds = settings.rounds
    if _share(tallies, rounds, settings.seconds) >= 1:
        return tallies
    if (folder.path / "cost.json").is_file() and not settings.overwrite:
        raise InputError(
            f"--rounds and --seconds would change the table in {folder.path}, "
            f"got {rounds} and {settings.seconds}: choose another --out, or --overwrite it"
        )
    with console.status("warming up"):
        profilers[1].warm_up()
    texts = {size: each.texts(tallies[size].num_texts) for size, each in profilers.items()}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("rounds of every shape", total=1.0)
            for size in cycle(texts):
                record = next(texts[size])
                with argument("--out", str(folder.path), "a folder with room", OSError):
                    folder.append(record)
                tallies[size].add(record)
                share = _share(tallies, rounds, settings.seconds)
                progress.update(task, completed=share)
                if share >= 1:
                    most = LONGEST * settings.rounds
                    if settings.seconds or rounds >= most or tallies[1].quality().is_good:
                        break
                    rounds = min(2 * rounds, most)
                    progress.update(task, description=f"{rounds} rounds of every shape")
    except KeyboardInterrupt:
        num_kept = sum(tally.num_texts for tally in tallies.values())
        console.print(
            f"interrupted: {num_kept} texts are kept in {folder.path}; "
            "the same command goes on from there"
        )
        raise
    return tallies


def _share(tallies: dict[int, Tally], rounds: int, seconds: float | None) -> float:
    """How much has been measured of what is wanted; 1: all."""
    if seconds is None:
        return min(tally.share(rounds) for tally in tallies.values())
    measured = sum(tally.seconds for tally in tallies.values())
    return min(*(tally.share(FEWEST) for tally in tallies.values()), measured / seconds)
