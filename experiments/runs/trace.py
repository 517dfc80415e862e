"""The recording of a trace, from its settings to its folder.

Every process records shards that are missing and stores each as soon as it is whole. What is stored
stays, whatever ends the run.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adaeagle.bench import provenance
from adaeagle.data.prompts import Prompt, digest
from adaeagle.data.splits import split_of
from adaeagle.registry import get_policy
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.manifest import Manifest, Shard, plan_shards
from adaeagle.trace.recorder import DEFAULT_ENVELOPE, Recorder, check_recordable
from experiments.errors import InputError, argument
from experiments.runs.launching import ProcessDied, gather, launch, make_fabric, own_device
from experiments.runs.models import ModelOptions, find_device, load_models
from experiments.runs.settings import check_prompts, generation, load_prompts

NUM_TOP = 8
"""Choices of the target that are recorded for each token."""


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Settings of a recording; its temperature is always 0."""

    out: Path
    models: ModelOptions = field(default_factory=ModelOptions)
    prompts: str = "mini"
    limit: int | None = None
    max_new_tokens: int = 256
    envelope: Sequence[str] = DEFAULT_ENVELOPE
    positions_at_once: int = 16
    prompts_per_shard: int = 4
    seconds: float | None = None  # in which to stay, as far as each split gets a shard
    processes: int = 1
    num_nodes: int = 1


@dataclass(frozen=True, slots=True)
class TraceResult:
    """What a folder holds after a recording."""

    out: Path
    num_texts: int
    num_positions: int
    num_nodes: int
    bytes: int
    seconds: float  # of this run
    complete: bool

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        return {**asdict(self), "out": str(self.out), "seconds": round(self.seconds, 3)}


def trace(settings: TraceSettings) -> TraceResult | None:
    """Records a trace, or the rest of one, as far as the time goes.

    Returns:
        What is recorded; None in the processes that help the first.

    Raises:
        InputError: a setting cannot be used, or the disk is full.
    """
    started = time.perf_counter()
    console = Console(stderr=True)
    for spec in settings.envelope:
        with argument("--envelope", spec):
            get_policy(spec)
    device = find_device(settings.models.device)
    fabric = make_fabric(device, settings.processes, settings.num_nodes)
    if _is_finished(settings):
        console.print(f"{settings.out} is complete, nothing is left to record")
    else:
        try:
            errors = launch(fabric, partial(_work, settings=settings))
        except KeyboardInterrupt:
            console.print(f"interrupted: {_kept(settings)}")
            raise
        except ProcessDied as died:
            raise InputError(f"{died}; {_kept(settings)}") from died
        if errors:
            raise InputError("; ".join(errors))
    if not fabric.is_global_zero:
        return None
    return _result(settings.out, time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is recorded, as far as it is known before the models are loaded."""

    prompts: list[Prompt]
    shards: list[Shard]

    @classmethod
    def of(cls, settings: TraceSettings) -> "Plan":
        prompts = load_prompts(settings.prompts, settings.limit)
        # A prompt is of one split whatever --limit says: split the whole set.
        splits = split_of(load_prompts(settings.prompts, None))
        ids = [prompt.id for prompt in prompts]
        return cls(prompts, plan_shards(ids, splits, settings.prompts_per_shard))

    def manifest_fields(self, settings: TraceSettings) -> dict[str, Any]:
        """The fields of the manifest that need no model."""
        return {
            "target": settings.models.target,
            "prompts_sha256": digest(self.prompts),
            "max_new_tokens": settings.max_new_tokens,
            "envelope": list(settings.envelope),
            "num_top": NUM_TOP,
            "versions": provenance.versions(),
            "prompt_ids": [prompt.id for prompt in self.prompts],
            "shards": self.shards,
        }


@dataclass(frozen=True, slots=True)
class Job:
    """One process's tools."""

    plan: Plan
    recorder: Recorder
    manifest: Manifest

    @classmethod
    def load(cls, settings: TraceSettings, device: str) -> "Job":
        """Loads the models, on the device of this process."""
        plan = Plan.of(settings)
        options = replace(settings.models, device=device)
        models = load_models(options, needs_drafter=True, is_greedy=True)
        assert models.drafter is not None
        with argument("--drafter", options.drafter):
            check_recordable(models.drafter)
        check_prompts(models.target, plan.prompts, settings.prompts)
        config = models.config
        names = ("target_weights", "drafter", "drafter_kind", "drafter_weights", "dtype")
        manifest = Manifest(
            **plan.manifest_fields(settings),
            **{name: config[name] for name in names},
            prompts=settings.prompts,
            vocab_size=models.target.vocab_size,
            device=config["device"].partition(":")[0],
            generation=generation(models.target),
            recorded_on={"hardware": provenance.hardware(), "git": provenance.git()},
        )
        with argument("--envelope", " ".join(settings.envelope)):
            recorder = Recorder(
                models.target,
                models.drafter,
                settings.envelope,
                settings.max_new_tokens,
                NUM_TOP,
                settings.positions_at_once,
            )
        return cls(plan, recorder, manifest)

    def folder(self, out: Path) -> TraceFolder:
        must = "a folder that can be written, empty or of this same trace"
        with argument("--out", str(out), must, (OSError, ValueError)):
            return TraceFolder.create(out, self.manifest)

    def record(
        self, folder: TraceFolder, todo: Sequence[int], seconds: float | None, *, is_shown: bool
    ) -> None:
        """Records the shards of `todo`, or those there is time for, with a bar on stderr."""
        by_id = {prompt.id: prompt for prompt in self.plan.prompts}
        started, num_tokens = time.perf_counter(), 0
        columns = (
            TextColumn("prompts recorded"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} tokens/s"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as progress:
            task = progress.add_task("", total=len(by_id), completed=folder.num_recorded, rate=0)
            for number in todo:
                texts, begun = [], time.perf_counter()
                for place, prompt_id in enumerate(self.manifest.shards[number].prompt_ids, 1):
                    answers = self.recorder.record(by_id[prompt_id])
                    texts += answers
                    num_tokens += sum(len(text.token_ids) for text in answers)
                    rate = num_tokens / (time.perf_counter() - started)
                    # Other processes are seen by the shards they have stored.
                    progress.update(task, completed=folder.num_recorded + place, rate=rate)
                with argument("--out", str(folder.path), "a folder with room", OSError):
                    folder.add(number, texts)
                now = time.perf_counter()
                is_late = seconds is not None and 2 * now - begun - started > seconds
                if is_late and self._has_all_splits(folder):
                    break

    def _has_all_splits(self, folder: TraceFolder) -> bool:
        shards, absent = self.manifest.shards, set(folder.missing)
        kept = {shard.split for number, shard in enumerate(shards) if number not in absent}
        return kept == {shard.split for shard in shards}


def _work(fabric: Fabric, settings: TraceSettings) -> list[str]:
    """One process's part of the work; returns what went wrong in any of them."""
    error, todo = "", list[int]()
    try:
        device = own_device(fabric, find_device(settings.models.device))
        job = Job.load(settings, device)
        if fabric.is_global_zero:
            folder = job.folder(settings.out)
            folder.discard_leftovers()
            todo = folder.missing
    except InputError as refused:
        error = str(refused)
    gathered = gather(fabric, (error, todo))
    if errors := _distinct([error for error, _ in gathered]):
        return errors
    # What is missing is dealt out anew at each start, so that all processes end at about the same
    # time after a resumption too.
    share = gathered[0][1][fabric.global_rank :: fabric.world_size]
    try:
        job.record(
            job.folder(settings.out), share, settings.seconds, is_shown=fabric.is_global_zero
        )
    except InputError as refused:
        error = str(refused)
    errors = _distinct(gather(fabric, error))
    return [*errors, _kept(settings)] if errors else []


def _distinct(errors: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, errors)))


def _is_finished(settings: TraceSettings) -> bool:
    """Whether all of this trace is there, as far as can be told without the models."""
    plan = Plan.of(settings)
    if not (settings.out / "manifest.json").is_file():
        return False
    folder = _open(settings.out)
    known = plan.manifest_fields(settings)
    known |= {
        name: value
        for name in ("drafter", "dtype")
        if (value := getattr(settings.models, name)) is not None
    }
    return folder.complete and all(
        getattr(folder.manifest, name) == value for name, value in known.items()
    )


def _open(out: Path) -> TraceFolder:
    with argument("--out", str(out), "a folder that is empty or of this same trace"):
        return TraceFolder.open(out)


def _kept(settings: TraceSettings) -> str:
    """What there is of an unfinished trace."""
    out = settings.out
    if not (out / "manifest.json").is_file():
        return f"nothing is kept in {out}"
    folder = _open(out)
    total = len(folder.manifest.prompt_ids)
    return (
        f"{folder.num_recorded} of {total} prompts are kept in {out}; "
        "the same command goes on from there"
    )


def _result(out: Path, seconds: float) -> TraceResult:
    folder = _open(out)
    with argument("--out", str(out), errors=(OSError, ValueError)):
        records = folder.records
    return TraceResult(
        out,
        num_texts=sum(record.num_texts for record in records),
        num_positions=sum(record.num_positions for record in records),
        num_nodes=sum(record.num_nodes for record in records),
        bytes=sum(record.num_bytes for record in records),
        seconds=seconds,
        complete=folder.complete,
    )
