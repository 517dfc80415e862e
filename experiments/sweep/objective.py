"""One trial: a policy that the sampler draws, replayed until it is done or clearly worse."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from adaeagle.policy import Policy
from adaeagle.registry import get_policy
from adaeagle.spec import Call
from adaeagle.trace.proposer import NotRecordedError
from experiments.sweep.scoring import Score, Scorer
from experiments.sweep.studies import WORKER, requeue, worker
from experiments.sweep.suggesting import SearchContext, Suggester, suggest_policy
from experiments.sweep.template import kind_of

RESULT = "result"
DECISION = "decision seconds of "
REPEATED = "it was tried before"


class RepeatedError(Exception):
    """The sampler drew a setting that was tried: such a trial fails and is not counted."""


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


def results(study: Study) -> list[Result]:
    """What all trials left that got so far."""
    found = map(Result.of, study.get_trials(deepcopy=False))
    return [result for result in found if result is not None]


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
        result = Result("")
        try:
            text, call = suggest_policy(self.suggester(trial), self.templates, self.context)
            result = Result(text, call.spec())
            self._refuse_repeated(trial, result)
            policy = get_policy(result.policy)
            self.check(policy)
        except (ValueError, OSError) as error:
            raise self._refused(trial, result, error) from error
        try:
            decision = self._decision(trial.study, call, policy)
            return self._replay(trial, result, policy, decision)
        except NotRecordedError as error:
            raise self._refused(trial, result, error) from error

    def _refused(self, trial: optuna.Trial, result: Result, error: Exception) -> optuna.TrialPruned:
        self._leave(trial, replace(result, refused=str(error)))
        return optuna.TrialPruned(str(error))

    def _refuse_repeated(self, trial: optuna.Trial, result: Result) -> None:
        if any(known.policy == result.policy for known in results(trial.study)):
            self._leave(trial, replace(result, refused=REPEATED))
            raise RepeatedError(result.policy)

    @staticmethod
    def _leave(trial: optuna.Trial, result: Result) -> None:
        trial.set_user_attr(RESULT, asdict(result))

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
            for prompt_id, seconds in block.seconds.items():
                trial.report(seconds, steps[prompt_id])
            if len(score.seconds) < len(steps) and trial.should_prune():
                share = self._slowdown(trial.study, score)
                if share > 1:
                    # What the whole would come to if the rest went as the prompts so far:
                    # samplers learn more from that than from a trial without a value.
                    whole = share * trial.study.best_value
                    speed = self.scorer.num_tokens / whole
                    self._keep(trial, result, score, speed, judged_on=len(score.seconds))
                    return whole
        assert score is not None
        self._keep(trial, result, score, score.tokens_per_second)
        if self.is_single:
            return score.total_seconds
        return score.tokens_per_second, score.verified_per_token

    def _slowdown(self, study: Study, score: Score) -> float:
        """Seconds on the prompts so far, as a multiple of the best trial's on the same ones."""
        best = study.best_trial.intermediate_values
        ids = self.scorer.prompt_ids
        known = {ids[step]: value for step, value in best.items() if ids[step] in score.seconds}
        if len(known) < len(score.seconds):
            return 0.0  # nothing to compare with
        return score.total_seconds / sum(known.values())

    def _keep(
        self,
        trial: optuna.Trial,
        result: Result,
        score: Score,
        speed: float,
        judged_on: int | None = None,
    ) -> None:
        found = replace(
            result,
            tokens_per_second=speed,
            tokens_per_round=score.num_tokens / max(1, score.num_rounds),
            verified_per_token=score.verified_per_token,
            num_missing=score.num_missing,
            judged_on=judged_on,
        )
        self._leave(trial, found)
