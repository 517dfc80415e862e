"""One trial: a policy that the sampler asks for, replayed until it is done or clearly worse."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from adaeagle.policy import Policy
from adaeagle.registry import get_policy
from adaeagle.spec import Call
from adaeagle.trace.proposer import NotRecordedError
from experiments.sweep.scoring import Score, Scorer
from experiments.sweep.studies import WORKER, requeue, worker
from experiments.sweep.suggesting import InfeasibleError, SearchContext, Suggester, suggest_policy
from experiments.sweep.template import kind_of

RESULT = "result"
DECISION = "decision seconds of "


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial leaves behind, beside Optuna's own values."""

    template: str
    policy: str = ""  # the spec
    refused: str = ""  # why it was not replayed
    tokens_per_second: float | None = None
    tokens_per_round: float | None = None
    verified_per_token: float | None = None
    num_missing: int = 0
    judged_on: int | None = None  # prompts, where the rest was left out; None: all

    @classmethod
    def of(cls, trial: FrozenTrial) -> "Result | None":
        """What a trial left, if it got so far."""
        known = trial.user_attrs.get(RESULT)
        return None if known is None else cls(**known)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Objective:
    """Seconds of all prompts, to be as few as possible; or tokens a second and nodes a token.

    What was replayed before, in whichever process, is not replayed again.
    """

    templates: Mapping[str, Call]
    scorer: Scorer
    context: SearchContext
    check: Callable[[Policy], None]
    suggester: Callable[[optuna.Trial], Suggester]
    is_single: bool
    _decisions: dict[str, float] = field(default_factory=dict)

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, float]:
        trial.set_user_attr(WORKER, worker())
        try:
            return self._run(trial)
        except KeyboardInterrupt:
            study = trial.study
            requeue(study, study.get_trials(deepcopy=False)[trial.number])
            raise

    def _run(self, trial: optuna.Trial) -> float | tuple[float, float]:
        try:
            text, call = suggest_policy(self.suggester(trial), self.templates, self.context)
        except InfeasibleError as error:
            return self._refuse(trial, Result("", refused=str(error)))
        spec = call.spec()
        known = self._known(trial.study, spec)
        if known is not None:
            return self._repeat(trial, known)
        try:
            policy = get_policy(spec)
            self.check(policy)
        except (ValueError, OSError) as error:
            return self._refuse(trial, Result(text, spec, refused=str(error)))
        try:
            decision = self._decision(trial.study, call, policy)
            return self._replay(trial, Result(text, spec), policy, decision)
        except NotRecordedError as error:
            return self._refuse(trial, Result(text, spec, refused=str(error)))

    def _refuse(self, trial: optuna.Trial, result: Result) -> float:
        trial.set_user_attr(RESULT, result.to_json())
        raise optuna.TrialPruned(result.refused)

    def _known(self, study: Study, spec: str) -> FrozenTrial | None:
        """A trial of the same policy."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.user_attrs[RESULT]["policy"] == spec:
                return trial
        return None

    def _repeat(self, trial: optuna.Trial, known: FrozenTrial) -> float | tuple[float, float]:
        if self.is_single and trial.study.best_value == known.value:
            # It may be called the best one, which others are compared with prompt by prompt.
            self._report(trial, known.intermediate_values)
        trial.set_user_attr(RESULT, known.user_attrs[RESULT])
        return known.values[0] if self.is_single else (known.values[0], known.values[1])

    def _decision(self, study: Study, call: Call, policy: Policy) -> float:
        """Seconds to decide, measured once in a study for all policies made of the same rules."""
        kind = DECISION + kind_of(call)
        if kind not in self._decisions:
            if kind not in study.user_attrs:
                study.set_user_attr(kind, self.scorer.decision_seconds(policy))
            self._decisions[kind] = study.user_attrs[kind]
        return self._decisions[kind]

    def _replay(
        self, trial: optuna.Trial, result: Result, policy: Policy, decision: float
    ) -> float | tuple[float, float]:
        steps = {prompt_id: step for step, prompt_id in enumerate(self.scorer.prompt_ids)}
        score: Score | None = None
        for block in self.scorer.score(policy, decision):
            score = block if score is None else score + block
            if not self.is_single:
                continue
            self._report(trial, {steps[name]: value for name, value in block.seconds.items()})
            if len(score.seconds) < len(steps) and trial.should_prune():
                share = self._slowdown(trial.study, score)
                if share > 1:
                    return self._stop(trial, result, score, share * trial.study.best_value)
        assert score is not None
        self._keep(trial, result, score, score.num_tokens / score.total_seconds)
        if self.is_single:
            return score.total_seconds
        return score.tokens_per_second, score.verified_per_token

    @staticmethod
    def _report(trial: optuna.Trial, seconds: Mapping[int, float]) -> None:
        for step, value in seconds.items():
            trial.report(value, step)

    def _slowdown(self, study: Study, score: Score) -> float:
        """Seconds on the prompts so far, as a multiple of the best trial's on the same ones."""
        best = study.best_trial.intermediate_values
        ids = self.scorer.prompt_ids
        known = {ids[step]: value for step, value in best.items() if ids[step] in score.seconds}
        if len(known) < len(score.seconds):
            return 0.0  # nothing to compare with
        return score.total_seconds / sum(known.values())

    def _stop(self, trial: optuna.Trial, result: Result, score: Score, seconds: float) -> float:
        """What the whole would come to if the rest went as the prompts so far.

        Samplers learn more from that than from a trial without a value.
        """
        speed = self.scorer.num_tokens / seconds
        self._keep(trial, result, score, speed, judged_on=len(score.seconds))
        return seconds

    @staticmethod
    def _keep(
        trial: optuna.Trial,
        result: Result,
        score: Score,
        speed: float,
        judged_on: int | None = None,
    ) -> None:
        found = Result(
            result.template,
            result.policy,
            tokens_per_second=speed,
            tokens_per_round=score.num_tokens / max(1, score.num_rounds),
            verified_per_token=score.verified_per_token,
            num_missing=score.num_missing,
            judged_on=judged_on,
        )
        trial.set_user_attr(RESULT, found.to_json())
