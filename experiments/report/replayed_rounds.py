"""A replay's rounds on some of its prompts, replayed from its trace and compared with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from adaeagle.cost.model import CostModel
from adaeagle.policy import Policy
from adaeagle.registry import get_policy
from adaeagle.replay.headroom import chain_family, eagle2_family
from adaeagle.trace.folder import TraceFolder
from adaeagle.trace.proposer import NotRecordedError
from adaeagle.trace.text import RecordedText
from adaeagle.trace.trace import Trace
from experiments.errors import InputError, reason
from experiments.report.finished import Finished
from experiments.report.rounds import Foresight, ShownRound, foresight, rounds_of
from experiments.runs.replay import model_loader, open_trace

FAMILIES: dict[str, Callable[[], list[str]]] = {"chain": chain_family, "eagle2": eagle2_family}
WITHOUT_COST = "rounds have no seconds, and no oracle beside them"


class NothingToExploreError(Exception):
    """Why no round can be shown."""


@dataclass(frozen=True, slots=True)
class ReplayedRounds:
    """Rounds of some texts under the policies of a run."""

    target: str  # whose texts they are
    texts: list[RecordedText]
    policies: dict[str, list[list[ShownRound]]]  # by text
    oracle: dict[str, list[list[Foresight]]]  # by family, text and position; what could be solved
    remarks: list[str]  # what could not be played, and why


def replay_rounds(run: Finished, prompt_ids: Sequence[str]) -> ReplayedRounds:
    """Replays the rounds of some prompts.

    Raises:
        NothingToExploreError: none can be.
    """
    if not run.is_replay:
        raise NothingToExploreError(
            "compare keeps no draft trees; a replay of a trace of these prompts has them"
        )
    folder = _open_trace(run)
    texts = _texts(folder, prompt_ids)
    if not texts:
        raise NothingToExploreError("no text has a round")
    cost, remarks = _load_cost(run)
    load = None if run.config["strict"] else model_loader(folder.manifest, None)

    def trace_of(chosen: Sequence[RecordedText]) -> Trace:
        return Trace(chosen, folder.manifest.vocab_size, load)

    trace = trace_of(texts)
    policies: dict[str, list[list[ShownRound]]] = {}
    for arm in run.arms:
        try:
            policy = get_policy(arm.policy)
            # What it learned from all texts before one decides its rounds there.
            remembers = policy.learns and bool(policy.state_dict())
            ids = [record.id for record in run.records]
            seen = trace_of(_texts(folder, ids)) if remembers else trace
            rounds = _rounds(policy, seen, texts, cost)
        except (ValueError, LookupError, ImportError, OSError, InputError) as error:
            remarks.append(f"{arm.policy} could not be replayed: {reason(error)}")
            continue
        if _is_as_recorded(run, arm.policy, texts, rounds):
            policies[arm.policy] = rounds
        else:
            remarks.append(f"{arm.policy} no longer runs the rounds that results.json tells of")
    if not policies:
        raise NothingToExploreError("; ".join(remarks))
    oracle = {}
    if cost is not None and run.results["oracle"] is not None:
        oracle = _oracle(run, trace, cost, remarks)
    return ReplayedRounds(folder.manifest.target, texts, policies, oracle, remarks)


def _open_trace(run: Finished) -> TraceFolder:
    """The trace that was replayed, if it is where it was."""
    path = run.config["trace"]
    try:
        folder = open_trace(Path(path))
    except InputError as error:
        raise NothingToExploreError(f"the trace of the replay cannot be read: {error}") from None
    if folder.manifest.digest != run.config["trace_sha256"]:
        raise NothingToExploreError(f"{path} is not the trace that was replayed")
    return folder


def _texts(folder: TraceFolder, prompt_ids: Sequence[str]) -> list[RecordedText]:
    """The texts of some prompts, as far as there is anything to draft in them."""
    try:
        return [text for text in folder.texts(prompt_ids=prompt_ids) if text.num_positions > 0]
    except (OSError, ValueError) as error:
        raise NothingToExploreError(f"the trace cannot be read: {reason(error)}") from None


def _load_cost(run: Finished) -> tuple[CostModel | None, list[str]]:
    """The table of the replay, or why there are no seconds."""
    path = run.config["cost"]
    try:
        cost = CostModel.load(path)
    except (OSError, ValueError) as error:
        return None, [f"{WITHOUT_COST}: {reason(error)}"]
    if cost.about != run.config["cost_about"]:
        return None, [f"{WITHOUT_COST}: {path} is another table than the replay's"]
    return cost, []


def _rounds(
    policy: Policy, trace: Trace, texts: Sequence[RecordedText], cost: CostModel | None
) -> list[list[ShownRound]]:
    """Of each of `texts`, which are among those of `trace`."""
    wanted = {(text.prompt_id, text.turn): place for place, text in enumerate(texts)}
    found: list[list[ShownRound]] = [[] for _ in texts]
    for text, rounds in rounds_of(policy, trace, cost):
        if (place := wanted.get((text.prompt_id, text.turn))) is not None:
            found[place] = rounds
    return found


def _is_as_recorded(
    run: Finished,
    policy: str,
    texts: Sequence[RecordedText],
    rounds: Sequence[Sequence[ShownRound]],
) -> bool:
    played: dict[str, list[tuple[int, int]]] = {}
    for text, of_text in zip(texts, rounds, strict=True):
        counts = played.setdefault(text.prompt_id, [])
        counts += [(one.num_verified, one.num_accepted) for one in of_text]
    recorded = {record.id: record.arms[policy] for record in run.records}
    return all(
        counts == list(zip(recorded[name].num_verified, recorded[name].num_accepted, strict=True))
        for name, counts in played.items()
    )


def _oracle(
    run: Finished, trace: Trace, cost: CostModel, remarks: list[str]
) -> dict[str, list[list[Foresight]]]:
    """What `dp` does, by family, text and position."""
    starts = trace.positions.starts.tolist()
    solved = {}
    try:
        for name in run.results["oracle"]["families"]:
            members = [get_policy(spec) for spec in FAMILIES[name]()]
            found = foresight(members, trace, cost)
            solved[name] = [found[start:end] for start, end in pairwise(starts)]
    except (InputError, NotRecordedError) as error:
        remarks.append(f"rounds have no oracle beside them: {reason(error)}")
        return {}
    return solved
