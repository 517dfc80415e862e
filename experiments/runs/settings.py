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
from adaeagle.bench.ranking import tokens_per_second
from adaeagle.bench.records import PromptRecord
from adaeagle.bench.run_folder import R, RunFolder
from adaeagle.bench.runner import BASELINE, make_arms
from adaeagle.data.prompts import Conversation, Prompt, TooLongError, digest, read_prompts, spread
from adaeagle.identity import Identify
from adaeagle.models.target import Target
from adaeagle.policy import Policy
from experiments.errors import InputError, argument, reason
from policies.chain import Chain
from policies.eagle2 import Eagle2
from policies.static_tree import StaticTree


def make_policies(specs: Sequence[str], baseline: str | None = None) -> dict[str, Policy]:
    """The arms that `--policies` names, and those they are compared with."""
    if baseline is not None:
        with argument("--baseline", baseline):
            make_arms([baseline])
        specs = [*specs, *([] if baseline in specs else [baseline])]
    for spec in specs:
        with argument("--policies", spec):
            make_arms([spec])
    with argument("--policies", " ".join(specs)):
        return make_arms([spec.strip() for spec in specs])


def best_fixed(arms: Mapping[str, Policy], records: Sequence[PromptRecord]) -> str:
    """The fastest arm whose draft has one length or size; plain decoding where there is none."""
    fixed = [name for name, policy in arms.items() if _is_fixed(policy)]
    return max(fixed or [BASELINE], key=lambda name: tokens_per_second(records, name))


def _is_fixed(policy: Policy) -> bool:
    shapes = (Chain, StaticTree, Eagle2)
    return isinstance(policy, shapes) and getattr(policy, "stop", None) is None


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


def check_prompts(
    target: Target, prompts: Sequence[Prompt], name: str, *, skip_long: bool = False
) -> list[Prompt]:
    """The prompts that are asked, checked before anything has run.

    Args:
        target: who is asked.
        prompts: of `--prompts`.
        name: of their file.
        skip_long: leave out those that fill the context, and say how many.

    Raises:
        InputError: one cannot be asked, or none is left.
    """
    kept = []
    with argument("--prompts", name):
        for prompt in prompts:
            try:
                Conversation(target, prompt).next_ids()
            except TooLongError:
                if not skip_long:
                    raise
            else:
                kept.append(prompt)
        if not kept:
            raise ValueError(f"each of its {len(prompts)} prompts is too long for {target.name}")
    if len(kept) < len(prompts):
        num_left_out = len(prompts) - len(kept)
        Console(stderr=True).print(f"{num_left_out} of {len(prompts)} prompts are too long")
    return kept


def run_identity(
    config: dict[str, Any], prompts: Sequence[Prompt], target: Target | None = None
) -> dict[str, Any]:
    """What must be equal for a run to be resumed.

    Args:
        config: the options, resolved.
        prompts: what is asked.
        target: who is asked; None: the run has none.
    """
    return {
        "config": config,
        "prompts_sha256": digest(prompts),
        **({} if target is None else _reading(target, prompts)),
        **origin(),
    }


def origin() -> dict[str, Any]:
    """Machine and versions."""
    return {"hardware": provenance.hardware(), "versions": provenance.versions()}


def _reading(target: Target, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """How a target reads prompts and ends texts, beside its weights."""
    token_ids = [Conversation(target, prompt).next_ids() for prompt in prompts]
    tokenizer = target.tokenizer
    template = None if tokenizer is None else tokenizer.chat_template
    return {
        "token_ids_sha256": _sha256(token_ids),
        "tokenizer_sha256": None if tokenizer is None else _sha256([template, len(tokenizer)]),
        "generation": generation(target),
    }


def generation(target: Target) -> dict[str, Any]:
    """What decides a text beside weights and prompt: where it ends, what is done to logits."""
    config = target.model.generation_config
    known: dict[str, Any] = {} if config is None else config.to_diff_dict()
    ours = {"max_length": target.max_length, "stop_token_ids": list(target.eos_token_ids)}
    left_out = ("transformers_version", "_from_model_config")
    return {**ours, "config": {name: known[name] for name in known if name not in left_out}}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def open_folder(
    command: str,
    out: Path | None,
    identity: dict[str, Any],
    *,
    anew: bool = False,
    is_shared: bool = False,
) -> RunFolder:
    """The folder of `--out`.

    Args:
        command: whose run it is.
        out: None: one for each configuration, so that the same command finds what it left.
        identity: see `run_identity`.
        anew: begin again where the folder holds another run or a finished one.
        is_shared: whether several processes may be at work there.
    """
    path = out or Path("runs") / f"{command}-{_sha256(identity)[:8]}"
    must = "a folder that can be written, empty or of this same run"
    try:
        return RunFolder(path, identity, replace=anew, is_shared=is_shared)
    except ValueError as error:
        advice = " (--overwrite begins anew)" if "another run" in str(error) else ""
        raise InputError(f"--out must be {must}, got {str(path)!r}: {error}{advice}") from error
    except OSError as error:
        raise InputError(f"--out must be {must}, got {str(path)!r}: {reason(error)}") from error


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
