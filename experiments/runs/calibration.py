"""How far a draft model's confidence can be trusted: acceptance against draft probability.

Source: EAGLE-2, Li et al. 2024, https://arxiv.org/abs/2406.16858, which grows its trees on the
finding that the head's confidence is close to the rate at which the target accepts.
Setting: every tested token (its parent accepted, or it hangs from the root) counts in the bin of
the probability the draft model gave it. The prompts are decoded anew, since listening takes time
that the comparison must not measure; each policy's own answers are its history.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adaeagle.bench.runner import text_seed
from adaeagle.data.prompts import Conversation, Prompt
from adaeagle.decoding.generate import generate
from adaeagle.decoding.sampling import Sampling
from adaeagle.drafters.base import Drafter
from adaeagle.models.target import Target
from adaeagle.policy import Outcome, Policy
from experiments.recorded import Recorded

NUM_BINS = 20


@dataclass(frozen=True, slots=True)
class Bins:
    """Tested tokens by draft probability, `NUM_BINS` equal bins of [0, 1]."""

    num_tested: list[int]
    num_accepted: list[int]
    sum_confidence: list[float]

    @classmethod
    def empty(cls) -> "Bins":
        return cls([0] * NUM_BINS, [0] * NUM_BINS, [0.0] * NUM_BINS)

    def add(self, outcome: Outcome) -> None:
        """Counts one round's tested tokens."""
        tested = outcome.tested[0]
        confidences = outcome.tree.log_probs[0][tested].exp().tolist()
        accepted = outcome.accepted[0][tested].tolist()
        for confidence, was_accepted in zip(confidences, accepted, strict=True):
            place = min(int(confidence * NUM_BINS), NUM_BINS - 1)  # 1 falls in the last bin
            self.num_tested[place] += 1
            self.num_accepted[place] += was_accepted
            self.sum_confidence[place] += confidence

    @classmethod
    def sum(cls, parts: "Sequence[Bins]") -> "Bins":
        return cls(
            [sum(counts) for counts in zip(*(part.num_tested for part in parts), strict=True)],
            [sum(counts) for counts in zip(*(part.num_accepted for part in parts), strict=True)],
            [sum(sums) for sums in zip(*(part.sum_confidence for part in parts), strict=True)],
        )


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """One prompt under every drafting policy."""

    id: str
    arms: dict[str, Bins]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "CalibrationRecord":
        return cls(raw["id"], {name: Bins(**bins) for name, bins in raw["arms"].items()})


@dataclass(frozen=True, slots=True)
class Listener:
    """Decodes prompts under policies and counts what became of drafted tokens.

    Args:
        target: whose text it is.
        drafter: whose confidence is in question.
        policies: by name; their states are their own from here on.
        sampling: the distribution of the text.
        max_new_tokens: of each answer.
    """

    target: Target
    drafter: Drafter | None
    policies: dict[str, Policy]
    sampling: Sampling
    max_new_tokens: int

    def run(
        self, prompts: Sequence[Prompt], finished: Sequence[CalibrationRecord] = ()
    ) -> Iterator[CalibrationRecord]:
        """Listens to the prompts that are not in `finished`."""
        known = {record.id for record in finished}
        for prompt in prompts:
            if prompt.id not in known:
                arms = {
                    name: self._listen(policy, prompt) for name, policy in self.policies.items()
                }
                yield CalibrationRecord(prompt.id, arms)

    def _listen(self, policy: Policy, prompt: Prompt) -> Bins:
        bins = Bins.empty()
        talk = Conversation(self.target, prompt)
        chosen_sampling = self.sampling
        while (prompt_ids := talk.next_ids()) is not None:
            out = generate(
                self.target,
                self.drafter,
                Recorded(policy, bins.add),
                prompt_ids,
                max_new_tokens=self.max_new_tokens,
                temperature=chosen_sampling.temperature,
                top_p=chosen_sampling.top_p,
                top_k=chosen_sampling.top_k,
                sampling=chosen_sampling.mode,
                seed=text_seed(chosen_sampling.seed, prompt.id, talk.num_answered),
            )
            talk.answer(out.token_ids)
        return bins


def total(records: Sequence[CalibrationRecord]) -> dict[str, Bins]:
    """Every policy's counts over all prompts."""
    return {name: Bins.sum([record.arms[name] for record in records]) for name in records[0].arms}


def results(records: Sequence[CalibrationRecord]) -> list[dict[str, Any]]:
    """For every policy its filled bins, and the expected calibration error over them.

    The error is the mean distance of confidence and acceptance, a token counting once
    (Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602).
    """
    return [
        {"policy": name, "calibration_error": _error(bins), "bins": list(_filled(bins))}
        for name, bins in total(records).items()
    ]


def _filled(bins: Bins) -> Iterator[dict[str, Any]]:
    for place, count in enumerate(bins.num_tested):
        if count:
            yield {
                "low": place / NUM_BINS,
                "high": (place + 1) / NUM_BINS,
                "num_tested": count,
                "num_accepted": bins.num_accepted[place],
                "confidence": bins.sum_confidence[place] / count,
                "acceptance": bins.num_accepted[place] / count,
            }


def _error(bins: Bins) -> float | None:
    num_tested = sum(bins.num_tested)
    if num_tested == 0:
        return None
    pairs = zip(bins.num_accepted, bins.sum_confidence, strict=True)
    return sum(abs(accepted - confidence) for accepted, confidence in pairs) / num_tested
