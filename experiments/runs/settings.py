"""What every run over prompts does alike: checks its input, opens its folder, goes on in it."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from adaeagle.bench import provenance
from adaeagle.bench.run_folder import R, RunFolder
from adaeagle.bench.runner import make_arms
from adaeagle.data.prompts import Conversation, Prompt, digest, read_prompts, spread
from adaeagle.identity import Identify
from adaeagle.models.target import Target
from adaeagle.policy import Policy
from experiments.errors import argument


def make_policies(specs: Sequence[str]) -> dict[str, Policy]:
    """The arms that `--policies` names, the baseline among them."""
    for spec in specs:
        with argument("--policies", spec):
            make_arms([spec])
    with argument("--policies", " ".join(specs)):
        return make_arms([spec.strip() for spec in specs])


def check_policies(arms: Mapping[str, Policy], identify: Identify) -> None:
    """Refuses a policy that was made for other models, before anything has run."""
    for spec, policy in arms.items():
        with argument("--policies", spec, errors=ValueError):
            policy.check(identify)


def load_prompts(name: str, limit: int | None) -> list[Prompt]:
    """What `--prompts` and `--limit` name."""
    with argument("--prompts", name):
        prompts = read_prompts(name)
    return prompts if limit is None else spread(prompts, limit)


def check_prompts(target: Target, prompts: Sequence[Prompt], name: str) -> None:
    """Refuses a prompt that the target cannot be asked, before anything has run."""
    with argument("--prompts", name):
        for prompt in prompts:
            Conversation(target, prompt).next_ids()


def run_identity(config: dict[str, Any], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What must be equal for a run to be resumed."""
    return {
        "config": config,
        "prompts_sha256": digest(prompts),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
    }


def open_folder(
    command: str, out: Path | None, identity: dict[str, Any], *, anew: bool = False
) -> RunFolder:
    """The folder of `--out`.

    Args:
        command: whose run it is.
        out: None: one for each configuration, so that the same command finds what it left.
        identity: see `run_identity`.
        anew: begin again where the folder holds another run or a finished one.
    """
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    path = out or Path("runs") / f"{command}-{name}"
    must = "a folder that can be written, empty or of this same run"
    with argument("--out", str(path), must, (OSError, ValueError)):
        return RunFolder(path, identity, replace=anew)


def finish(
    folder: RunFolder,
    kind: type[R],
    num_prompts: int,
    rest: Callable[[Sequence[R]], Iterator[R]],
    description: str,
    seconds: float | None = None,
) -> list[R]:
    """Runs the prompts that are not finished yet, with a bar on stderr; returns all records.

    Args:
        folder: where records are kept, each as soon as it is there.
        kind: of the records.
        num_prompts: of the whole run.
        rest: gives the records that are missing beside those that are there.
        description: what the bar counts.
        seconds: in which to stay: no prompt is begun that would end too late if it took as long as
            the one before. None: all are run.
    """
    with argument("--out", str(folder.path), "a folder of this same run", (OSError, ValueError)):
        records = folder.records(kind)
    console = Console(stderr=True)
    if records:
        console.print(f"{len(records)} of {num_prompts} prompts were finished in {folder.path}")
    if len(records) == num_prompts:
        return records
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    end = math.inf if seconds is None else began + seconds
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(description, total=num_prompts, completed=len(records))
            for record in rest(tuple(records)):
                with argument("--out", str(folder.path), "a folder with room", OSError):
                    folder.append(record)
                records.append(record)
                progress.advance(task)
                before, began = began, time.monotonic()
                if 2 * began - before > end:
                    break
    except KeyboardInterrupt:
        console.print(
            f"interrupted: {len(records)} of {num_prompts} prompts are kept in {folder.path}; "
            "the same command goes on from there"
        )
        raise
    return records
