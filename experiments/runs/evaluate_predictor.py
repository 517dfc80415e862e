"""How good a predictor is: `adaeagle evaluate-predictor`.

Question: are its probabilities true, does it tell accepted tokens from others, are its lengths
right; and what do policies that ask it make of that in tokens a second, its own time charged?
Setting: prompts of a trace's test split unless `--split` names another. The draft's own confidence
stands beside the predictor's: what it does not beat was there for nothing.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from adaeagle.bench import provenance
from adaeagle.bench.records import PromptRecord
from adaeagle.cost.model import CostModel
from adaeagle.data.prompts import grouping
from adaeagle.registry import lookup
from adaeagle.trace.text import RecordedText
from experiments.errors import InputError, argument
from experiments.runs import replay as replaying
from experiments.runs.settings import open_folder
from experiments.views.evaluation_plots import acceptance_figure, lengths_figure
from experiments.views.plot_style import png
from predictors import evaluation
from predictors.base import (
    AcceptancePredictions,
    LengthPredictions,
    Predictions,
    Predictor,
    load_predictor,
)

NUM_BINS = 20
AT_LEAST = (1, 4, 8, 12)

Values = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """Settings of an evaluation."""

    predictor: str
    trace: Path
    policies: Sequence[str] | None = None  # None: those of the predictor's kind
    split: str = "test"
    cost: Path | None = None
    threads: int | None = None
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """How good a predictor is and where it is written."""

    results: dict[str, Any]  # `results.json`
    replayed: dict[str, Any]  # `results.json` of the replay
    records: list[PromptRecord]  # of the replay
    out: Path
    files: list[Path]

    @property
    def summary(self) -> dict[str, Any]:
        """What a script wants first."""
        config = self.results["config"]
        acceptance, lengths = self.results["acceptance"], self.results["lengths"]
        arms = self.results["replay"]["arms"]
        return {
            "out": str(self.out),
            "predictor": config["predictor"],
            "split": config["split"],
            "acceptance": acceptance and {k: acceptance[k] for k in ("num", "brier", "ece", "auc")},
            "lengths": lengths and {k: lengths[k] for k in ("num", "error", "constant_error")},
            "arms": [{key: arm[key] for key in replaying.SHOWN} for arm in arms],
        }


def evaluate(settings: EvaluationSettings) -> EvaluationResult:
    """Evaluates a predictor, replays policies that use it, and writes the folder.

    Raises:
        InputError: a setting cannot be used.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with argument("PREDICTOR", settings.predictor, errors=(OSError, ValueError)):
        predictor = load_predictor(settings.predictor)
    cost = settings.cost or settings.trace / replaying.COST
    specs = settings.policies or policies_of(predictor, settings.predictor, cost)
    texts, predictions = _predictions(predictor, settings)
    config: dict[str, Any] = {
        "predictor": settings.predictor,
        "kind": predictor.kind,
        "trained_on": predictor.metadata.trace,
        "trace": str(settings.trace),
        "split": settings.split,
        "policies": list(specs),
    }
    identity = {
        "config": config,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
    }
    folder = open_folder("evaluate-predictor", settings.out, identity, anew=True)
    records, replayed = replaying.replay_policies(
        replaying.ReplaySettings(
            trace=settings.trace,
            policies=specs,
            cost=settings.cost,
            split=settings.split,
            out=folder.path / "replay",
        )
    )
    by = grouping(texts)
    tasks = [getattr(text, by) for text in texts]
    found = {**comparisons(predictions, tasks), "by": by}
    whole = {
        **identity,
        "git": provenance.git(),
        **found,
        "replay": {name: replayed[name] for name in ("baseline", "oracle", "arms", "num_missing")},
    }
    with argument("--out", str(folder.path), "a folder that can be written", OSError):
        files = [folder.write("results.json", json.dumps(whole, indent=1) + "\n")]
        if predictions.acceptance is not None:
            files.append(
                folder.write(
                    "acceptance.png", png(acceptance_figure(predictions.acceptance, found))
                )
            )
        if predictions.lengths is not None:
            files.append(
                folder.write("lengths.png", png(lengths_figure(predictions.lengths, found)))
            )
    return EvaluationResult(whole, replayed, records, folder.path, files)


def policies_of(predictor: Predictor, source: str, cost: Path) -> list[str]:
    """Specs of the policies that ask predictors of its kind, with `cost` where they take one."""
    if not predictor.policies:
        raise InputError(
            f"--policies must be given: predictor {source} of kind {predictor.kind} names no policy"
        )
    given = {"predictor": source, "cost": str(cost)}
    specs = []
    for name in predictor.policies:
        known = inspect.signature(lookup(name)).parameters
        taken = ", ".join(f"{key}={value!r}" for key, value in given.items() if key in known)
        specs.append(f"{name}({taken})")
    return specs


def _predictions(
    predictor: Predictor, settings: EvaluationSettings
) -> tuple[list[RecordedText], Predictions]:
    folder = replaying.open_trace(settings.trace)
    trace = replaying.load_trace(folder, settings.split, None)
    cost: CostModel | None = None
    if predictor.needs_cost:
        cost, _ = replaying.load_cost(settings.cost, folder)
    texts = [text for text in trace.texts if text.num_positions > 0]
    with argument("PREDICTOR", settings.predictor, errors=ValueError):
        predictor.check(folder.manifest.models(texts[0].features.shape[1]))
        return texts, evaluation.evaluate(predictor, texts, folder.manifest.vocab_size, cost)


def comparisons(predictions: Predictions, tasks: Sequence[str]) -> dict[str, Any]:
    """A predictor beside what became of what it predicted, over all and for each task.

    Args:
        predictions: its own.
        tasks: of each text.
    """
    return {
        "acceptance": None
        if predictions.acceptance is None
        else _of_acceptance(predictions.acceptance, tasks),
        "lengths": None if predictions.lengths is None else _of_lengths(predictions.lengths, tasks),
    }


def _of_acceptance(found: AcceptancePredictions, tasks: Sequence[str]) -> dict[str, Any]:
    probs, own, accepted, depths = (
        values.numpy() for values in (found.probs, found.confidences, found.accepted, found.depths)
    )
    task = np.asarray(tasks)[found.examples.numpy()]
    return {
        **scores(probs, accepted),
        "draft_confidence": scores(own, accepted),
        "bins": bins(probs, accepted),
        "by_depth": grouped("depth", np.unique(depths).tolist(), depths, scores, probs, accepted),
        "by_task": grouped("task", dict.fromkeys(tasks), task, scores, probs, accepted),
    }


def _of_lengths(lengths: LengthPredictions, tasks: Sequence[str]) -> dict[str, Any]:
    predicted, true = lengths.predicted.numpy(), lengths.true.numpy()
    task = np.asarray(tasks)[lengths.examples.numpy()]
    return {
        **errors(predicted, true),
        "auc_at_least": {str(k): auc(predicted, true >= k) for k in AT_LEAST},
        "by_task": grouped("task", dict.fromkeys(tasks), task, errors, predicted, true),
    }


def grouped(
    name: str,
    groups: Iterable[Any],
    group_of: Values,
    score: Callable[..., dict[str, Any]],
    *columns: Values,
) -> list[dict[str, Any]]:
    """What `score` makes of the columns' part of each group that has one."""
    return [
        {name: each, **score(*(column[group_of == each] for column in columns))}
        for each in groups
        if (group_of == each).any()
    ]


def scores(probs: Values, accepted: Values) -> dict[str, Any]:
    """Of probabilities: Brier score, expected calibration error, area under the ROC curve."""
    filled = bins(probs, accepted)
    distance = sum(b["num"] * abs(b["accepted"] - b["told"]) for b in filled)
    return {
        "num": len(probs),
        "accepted": float(accepted.mean()),
        "told": float(probs.mean()),
        "brier": float(np.square(probs - accepted).mean()),
        "ece": distance / len(probs),
        "auc": auc(probs, accepted),
    }


def bins(probs: Values, accepted: Values) -> list[dict[str, Any]]:
    """Equal bins of [0, 1] that hold something: mean probability and the share accepted."""
    place = np.minimum((probs * NUM_BINS).astype(int), NUM_BINS - 1)  # 1 falls in the last
    return [
        {
            "low": each / NUM_BINS,
            "high": (each + 1) / NUM_BINS,
            "num": int((place == each).sum()),
            "told": float(probs[place == each].mean()),
            "accepted": float(accepted[place == each].mean()),
        }
        for each in np.unique(place).tolist()
    ]


def auc(score: Values, label: Values) -> float | None:
    """None where all labels are alike."""
    if label.all() or not label.any():
        return None
    return float(roc_auc_score(label, score))


def errors(predicted: Values, true: Values) -> dict[str, Any]:
    """Of lengths; `constant_error` is that of the best constant, their median."""
    varies = len(predicted) > 1 and predicted.std() > 0 and true.std() > 0
    return {
        "num": len(predicted),
        "true": float(true.mean()),
        "told": float(predicted.mean()),
        "error": float(np.abs(predicted - true).mean()),
        "constant_error": float(np.abs(np.median(true) - true).mean()),
        "correlation": float(np.corrcoef(predicted, true)[0, 1]) if varies else None,
    }
