"""What is tried next: all templates get as many trials, and no setting is tried twice."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from adaeagle.spec import Call
from experiments.sweep.objective import RESULT, results
from experiments.sweep.studies import FIRST, finished
from experiments.sweep.suggesting import TEMPLATE, Option, SearchContext, unseen

MOST_WASTED = 3
"""Trials that may repeat a setting or not run, for each that is wanted."""


@dataclass(slots=True)
class Sharing:
    """Queues trials.

    Args:
        templates: of the study, by their texts.
        context: what gaps are filled with.
        random: draws settings where the sampler has drawn one that was tried, or cannot run.
        num_trials: wanted.
        end: of the clock (`time.monotonic`), after which only what waits is tried.
        is_grid: the sampler visits everything once by itself.
    """

    templates: Mapping[str, Call]
    context: SearchContext
    random: Random
    num_trials: int
    end: float = math.inf
    is_grid: bool = False
    _exhausted: set[str] = field(default_factory=set)

    def has_next(self, study: Study, now: float = -math.inf) -> bool:
        """Sees to the next trial; false where there is none.

        Args:
            study: of the trials.
            now: on the clock; before the first trial of a process time does not matter.
        """
        trials = study.get_trials(deepcopy=False)
        if len(finished(study)) >= self.num_trials:
            return False
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
        if now >= self.end:
            return False
        if self.is_grid:
            return True
        wasted = sum(map(is_wasted, trials))
        return wasted <= MOST_WASTED * self.num_trials and self._queue(study, trials)

    def _queue(self, study: Study, trials: list[FrozenTrial]) -> bool:
        """Queues a trial of the template that had fewest; false where no setting is left."""
        counts = Counter(
            self._template_of(trial)
            for trial in trials
            if trial.state in (TrialState.COMPLETE, TrialState.RUNNING)
            and FIRST not in trial.user_attrs
        )
        while left := [text for text in self.templates if text not in self._exhausted]:
            text = min(left, key=lambda each: counts[each])
            parameters = self._parameters(study, trials, text)
            if parameters is None:
                self._exhausted.add(text)
                continue
            if parameters:
                study.enqueue_trial(parameters)
            return True
        return False

    def _parameters(
        self, study: Study, trials: list[FrozenTrial], text: str
    ) -> dict[str, Option] | None:
        """What is fixed of the next trial of a template; None where no setting is left."""
        own = [trial for trial in trials if self._template_of(trial) == text]
        if own and is_wasted(own[-1]):
            seen = {result.policy for result in results(study)}
            return unseen(self.templates, text, self.context, seen, self.random)
        return {TEMPLATE: text} if len(self.templates) > 1 else {}

    def _template_of(self, trial: FrozenTrial) -> str:
        known = trial.params | trial.system_attrs.get("fixed_params", {})
        return str(known.get(TEMPLATE, next(iter(self.templates))))


def is_wasted(trial: FrozenTrial) -> bool:
    """Whether its setting was tried before or could not run: such a trial does not count."""
    return trial.state != TrialState.COMPLETE and RESULT in trial.user_attrs
