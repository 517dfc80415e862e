"""Cross-fitted models of acceptance on a trace's chains, and what rules on them come to.

See `experiments.benchmarks.signals`, whose question this answers.

Shapes: Q positions of the trace, K tokens of their chains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from adaeagle.cost.model import CostModel
from adaeagle.replay.expected import acceptance_chances, best_expected, expected_of, expected_rate
from adaeagle.replay.oracle import Choices, dp
from adaeagle.trace.trace import Trace
from experiments.benchmarks import harness
from predictors.data.chains import Chains, chain_choices, read_chains, round_starts
from predictors.data.signals import chain_signals

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

PATH = "path probability"
EVERYTHING = "everything"
NETWORK = "everything, wide network"
SHUFFLED = "everything, shuffled labels"
PARTS = 5
MOST_TREES = 150
COMPONENTS = 24
"""Of the target's feature, as many principal components as are given to the models."""
THRESHOLDS = np.geomspace(0.01, 0.98, 24)


@dataclass(frozen=True, slots=True)
class Chances:
    """What a model says of every token of every chain, asked about prompts it has not seen."""

    probs: Floats  # [Q, K] that it is accepted, given that all before it are
    losses: Floats  # [Q, K] bits, of the tokens that a verification judges; 0 elsewhere


@dataclass(frozen=True, slots=True)
class Totals:
    """What the rounds of a rule come to, by prompt."""

    num_emitted: Floats  # [prompts]
    seconds: Floats  # [prompts]

    def rate(self, chosen: Any = slice(None)) -> float:
        """Tokens a second of some of the prompts."""
        return float(self.num_emitted[chosen].sum() / self.seconds[chosen].sum())


class SignalAudit:
    """The audit of one trace.

    Args:
        trace: what was recorded.
        cost: prices rounds.
        k_max: K, tokens of the chains.
        classes: of tokens, see `token_classes`; None: there is no such group.
        seed: of parts, models and draws.
    """

    def __init__(
        self, trace: Trace, cost: CostModel, k_max: int, classes: Tensor | None, seed: int = 0
    ) -> None:
        self.trace, self.seed = trace, seed
        self.chains: Chains = read_chains(trace, k_max, num_confidences=2)
        names = [text.prompt_id for text in trace.texts]
        self.num_prompts = len(set(names))
        if self.num_prompts < PARTS:
            raise ValueError(f"trace must hold at least {PARTS} prompts, got {self.num_prompts}")
        number = {name: place for place, name in enumerate(dict.fromkeys(names))}
        self.prompts = np.asarray([number[name] for name in names])[trace.positions.text_of]
        splits = GroupKFold(PARTS, shuffle=True, random_state=seed)
        self.parts = [held for _, held in splits.split(self.prompts, groups=self.prompts)]
        self.tested = self.chains.tested.numpy()
        self.accepted = self.chains.accepted.numpy()
        own = self.chains.log_probs
        path = torch.stack((own, own.cumsum(1)), dim=2)
        self.signals = {PATH: path, **chain_signals(trace, self.chains, classes)}
        self.signals["feature"] = self._components(self.signals["feature"])
        self.family: Choices = chain_choices(trace, self.chains, cost)

    def _components(self, features: Tensor) -> Tensor:
        own = features[:, 0].numpy()
        size = min(COMPONENTS, *own.shape)
        found = torch.from_numpy(PCA(size, random_state=self.seed).fit_transform(own)).float()
        return found.unsqueeze(1).expand(-1, features.shape[1], -1)

    def chances(
        self, names: Sequence[str], *, network: bool = False, shuffled: bool = False
    ) -> Chances:
        """Cross-fitted predictions from groups of signals, the path's probability among them."""
        inputs = torch.cat([self.signals[name] for name in (PATH, *names)], dim=2).numpy()
        labels = self.accepted.copy()
        if shuffled:
            order = np.random.default_rng(self.seed).permutation(int(self.tested.sum()))
            labels[self.tested] = labels[self.tested][order]
        probs = np.zeros(labels.shape)
        for number, held in enumerate(self.parts):
            known = self.tested.copy()
            known[held] = False
            inner = np.zeros_like(known)
            inner[self.parts[(number + 1) % PARTS]] = True
            if network:
                model: Any = self._network().fit(inputs[known], labels[known])
            else:
                model = self._boosting(inputs, labels, known, known & inner)
            flat = inputs[held].reshape(-1, inputs.shape[2])
            probs[held] = model.predict_proba(flat)[:, 1].reshape(len(held), -1)
        right = np.where(labels, probs, 1 - probs).clip(1e-6)
        return Chances(probs, np.where(self.tested, -np.log2(right), 0.0))

    def _boosting(self, inputs: Floats, labels: Bools, known: Bools, inner: Bools) -> Any:
        """A model of the known tokens; how many trees it has is what is best for the inner ones."""

        def fitted(chosen: Bools, max_iter: int) -> HistGradientBoostingClassifier:
            model = HistGradientBoostingClassifier(
                max_iter=max_iter,
                learning_rate=0.06,
                max_leaf_nodes=12,
                min_samples_leaf=40,
                l2_regularization=1.0,
                early_stopping=False,
                random_state=self.seed,
            )
            return model.fit(inputs[chosen], labels[chosen])

        trial = fitted(known & ~inner, MOST_TREES)
        losses = [
            log_loss(labels[inner], probs[:, 1], labels=[False, True])
            for probs in trial.staged_predict_proba(inputs[inner])
        ]
        return fitted(known, int(np.argmin(losses)) + 1)

    def _network(self) -> Any:
        layers = MLPClassifier((256, 128), alpha=0.01, early_stopping=True, random_state=self.seed)
        return make_pipeline(StandardScaler(), layers)

    def by_prompt(self, values: Floats) -> Floats:
        """Sums of [Q, ...] over the positions of each prompt: [prompts]."""
        whole = values.reshape(len(values), -1).sum(1)
        return np.bincount(self.prompts, whole, minlength=self.num_prompts).astype(float)

    def totals(self, members: Tensor) -> Totals:
        """Of rounds that draft chains of lengths [Q]."""
        rows = torch.arange(len(members))
        family, positions = self.family, self.trace.positions
        emitted, seconds = family.num_emitted[members, rows], family.seconds[members, rows]
        visited = round_starts(positions, emitted - 1).numpy()
        is_visited = np.zeros(len(rows))
        is_visited[visited] = 1.0
        return Totals(
            self.by_prompt(is_visited * emitted.numpy()),
            self.by_prompt(is_visited * seconds.numpy()),
        )

    def chosen(self, options: Sequence[Totals]) -> Totals:
        """For each part's prompts the option that is best on all others."""
        emitted, seconds = np.zeros(self.num_prompts), np.zeros(self.num_prompts)
        for held in self.parts:
            own = np.unique(self.prompts[held])
            others = np.setdiff1d(np.arange(self.num_prompts), own)
            best = max(options, key=lambda option: option.rate(others))
            emitted[own], seconds[own] = best.num_emitted[own], best.seconds[own]
        return Totals(emitted, seconds)

    def rule(self, chances: Chances) -> Totals:
        """Goes on while the predicted survival of the chain is at least a threshold."""
        survival = chances.probs.cumprod(1)
        options = []
        for threshold in THRESHOLDS:
            is_over = survival < threshold
            lengths = np.where(is_over.any(1), is_over.argmax(1) + 1, survival.shape[1])
            options.append(self.totals(torch.from_numpy(lengths)))
        return self.chosen(options)

    def fixed(self) -> Totals:
        """The best chain of one length, plain decoding among them."""
        num_positions = len(self.trace.positions)
        sizes = range(self.chains.k_max + 1)
        return self.chosen([self.totals(torch.full((num_positions,), size)) for size in sizes])

    def oracle(self) -> Totals:
        """The best length for every round."""
        return self.totals(dp(self.family, self.trace.positions).members)


def audit(found: SignalAudit, arms: Mapping[str, Chances], shuffled: Chances) -> dict[str, Any]:
    """Bits and headroom of every arm, with intervals over prompts."""
    num_tested = found.by_prompt(found.tested.astype(float))
    base, fixed, oracle = arms[PATH], found.fixed(), found.oracle()

    def bits(losses: Floats) -> dict[str, Any]:
        gained = found.by_prompt(base.losses - losses)
        ends = harness.interval(harness.ratio_of_totals, list(gained), list(num_tested))
        return {"bits": gained.sum() / num_tested.sum(), "bits_ci95": ends}

    def headroom(rule: Totals) -> dict[str, Any]:
        columns = [
            list(column)
            for each in (rule, fixed, oracle)
            for column in (each.num_emitted, each.seconds)
        ]
        return {
            "tokens_per_second": rule.rate(),
            "over_fixed": rule.rate() / fixed.rate(),
            "headroom": float(_share(*(np.asarray(column) for column in columns))),
            "headroom_ci95": harness.interval(_share, *columns),
        }

    rows = [
        {"signals": name, **bits(each.losses), **headroom(found.rule(each))}
        for name, each in arms.items()
    ]
    # Of shuffled labels even the path tells nothing: they are held against their own mean.
    share = found.accepted[found.tested].mean()
    labels_entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share))
    control = labels_entropy - found.by_prompt(shuffled.losses).sum() / num_tested.sum()
    everything = next(row for row in rows if row["signals"] == EVERYTHING)
    low, high = everything["headroom_ci95"]
    return {
        "num_prompts": found.num_prompts,
        "num_tested": int(num_tested.sum()),
        "entropy_bits": labels_entropy,
        "path_bits": labels_entropy - found.by_prompt(base.losses).sum() / num_tested.sum(),
        "rows": rows,
        "shuffled_bits": control,
        "fixed_tokens_per_second": fixed.rate(),
        "dp_tokens_per_second": oracle.rate(),
        "irreducible": 1 - everything["headroom"],
        "irreducible_ci95": [1 - high, 1 - low],
        "temperature_1": expected_headroom(found),
    }


def _share(*totals: Floats) -> Any:
    """Of the headroom, from tokens and seconds of a rule, of the fixed draft, of the oracle."""
    pairs = zip(totals[::2], totals[1::2], strict=True)
    rule, fixed, oracle = (harness.ratio_of_totals(*pair) for pair in pairs)
    return (rule - fixed) / (oracle - fixed)


def expected_headroom(found: SignalAudit) -> dict[str, float]:
    """Tokens a second at temperature 1, in expectation along the recorded text.

    Of the best chain of one length, and of an oracle that knows both distributions and no coins.
    """
    chances = acceptance_chances(found.trace, found.chains.k_max).low
    seconds, positions = found.family.seconds, found.trace.positions
    sizes = [torch.full((len(positions),), size) for size in range(len(seconds))]
    fixed = [expected_of(size, chances, seconds, positions) for size in sizes]
    return {
        "fixed_tokens_per_second": max(expected_rate(each, positions) for each in fixed),
        "oracle_tokens_per_second": expected_rate(
            best_expected(chances, seconds, positions), positions
        ),
    }
