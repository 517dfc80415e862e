"""Which template the next trial is of: all get as many trials, and no setting is tried twice."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from adaeagle.spec import Call
from experiments.sweep.objective import RESULT, results
from experiments.sweep.studies import FIRST
from experiments.sweep.suggesting import TEMPLATE, Option, SearchContext, unseen


@dataclass(slots=True)
class Sharing:
    """Queues trials.

    Args:
        templates: of the study, by their texts.
        context: what gaps are filled with.
        random: draws settings where the sampler has drawn one that was tried, or cannot run.
    """

    templates: Mapping[str, Call]
    context: SearchContext
    random: Random
    _exhausted: set[str] = field(default_factory=set)

    def queue_next(self, study: Study) -> bool:
        """Sees to the next trial, unless one is waiting; false where nothing is left to try."""
        trials = study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True
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
