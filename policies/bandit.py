"""Learn which of several policies makes the most tokens a second, while decoding by them.

Source: BanditSpec, Hou et al. 2025, https://arxiv.org/abs/2505.15141, for UCB over drafting
configurations, every text anew; TapOut, 2025, https://arxiv.org/abs/2511.02017, for UCB1 and
Thompson sampling over stop rules, on and on across texts. One arm is chosen a round. UCB1 (Auer et
al. 2002, https://doi.org/10.1023/A:1013689704352) takes the arm whose mean reward may be highest,
mean + sqrt(2 ln t / n) after n of t rounds; Thompson sampling the one whose draw is highest, here
from a normal distribution around the mean, of deviation 1 / sqrt(n).
Differs from the papers: the reward. Theirs is accepted tokens, TapOut's mixed with their share of
those drafted; ours is what is optimised, tokens over seconds of all rounds of an arm, in units of
the best arm's, with `exploration` as the factor on what is added. Arms are any policies, trees and
chains, fixed or not, and an arm that learns learns from its own rounds. A text's first round
teaches nothing, since its draft model reads the prompt, nor do rounds that its end may cut short.

Shapes: P rounds side by side, A arms, N drafted nodes, F frontier nodes, L draft forwards.
"""

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.cost.model import CostModel, RoundShapes
from adaeagle.policy import Budget, Composite, Context, Outcome, Policy, StopRule
from adaeagle.ranges import at_least
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree
from policies.chain import Chain
from policies.support.row_state import for_rows

Floats = npt.NDArray[np.float64]

STATE = ("tokens", "seconds", "num_rounds")
PER_ROUND = ("num_accepted", "num_emitted", "depth", "draft_seconds", "verify_seconds")
"""What an `Outcome` has of each round, [P]."""
SHORTEST = 1e-9  # seconds, so that rates of arms that were not tried are defined


class _Bandit(Composite, Policy):
    """Several policies, of which each round asks one; see `UCB` for the arguments."""

    search_space: ClassVar[SearchSpace] = {"exploration": Float(0.1, 2.0, log=True)}

    def __init__(
        self,
        *arms: Policy | StopRule,
        exploration: float = 0.5,
        across_texts: bool = False,
        cost: str | Path | CostModel | None = None,
    ) -> None:
        if len(arms) < 2:
            raise ValueError(f"arms must be at least two policies, got {len(arms)}")
        for arm in arms:
            if not isinstance(arm, Policy | StopRule):
                raise ValueError(f"arms must be policies such as chain(), got {arm!r}")
        at_least(0, exploration=exploration)
        self.arms = tuple(Chain(stop=arm) if isinstance(arm, StopRule) else arm for arm in arms)
        super().__init__(*self.arms)
        self.learns = True
        self.exploration = exploration
        self.across_texts = across_texts
        self.cost = CostModel.load(cost) if isinstance(cost, str | Path) else cost
        self.drafts = any(arm.drafts for arm in self.arms)
        # Of this round: the chosen arms, [P], and what each of them planned; and what was opened.
        self._chosen = np.zeros(1, dtype=np.int64)
        self._budgets: dict[int, Budget] = {}
        self._widths: list[Tensor] = []
        self._begin()

    @abstractmethod
    def _optimism(self, num_rounds: Floats) -> Floats:
        """What is added to rates known from so many rounds, before `exploration`: [P, A]."""

    def _begin(self) -> None:
        # [1, A], or [P, A] once a round was seen.
        self.tokens, self.seconds, self.num_rounds = torch.zeros(
            3, 1, len(self.arms), dtype=torch.float64
        ).unbind(0)

    def reset(self) -> None:
        super().reset()
        if not self.across_texts:
            self._begin()

    def plan(self, context: Context) -> Budget:
        self._context = context
        self._widths.clear()
        self._chosen = self._choose(len(context.remaining))
        places = sorted(set(self._chosen.tolist()))
        self._budgets = {place: self.arms[place].plan(context) for place in places}
        budget = self._budgets[places[0]]
        self.proposal = self.arms[places[0]].proposal
        if len(places) > 1:
            budget = self._joined()
        self._depth = budget.depth
        return budget

    def _choose(self, num_texts: int) -> npt.NDArray[np.int64]:
        """An arm for each text, [P]: those that were never tried first, in their order."""
        tokens, seconds, num_rounds = (
            for_rows(state, num_texts).numpy()
            for state in (self.tokens, self.seconds, self.num_rounds)
        )
        rates = tokens / np.maximum(seconds, SHORTEST)
        best = np.maximum(rates.max(axis=1, keepdims=True), SHORTEST)
        hopes = rates / best + self.exploration * self._optimism(num_rounds)
        chosen: npt.NDArray[np.int64] = np.where(num_rounds == 0, np.inf, hopes).argmax(axis=1)
        return chosen

    def _joined(self) -> Budget:
        """Limits within which each text's own fit."""
        budgets = self._budgets
        depths = {place: torch.as_tensor(own.depth) for place, own in budgets.items()}
        deepest = max(1, *(int(depth.max()) for depth in depths.values()))
        nodes = None
        if all(own.nodes is not None for own in budgets.values()):
            counts = {place: torch.as_tensor(own.nodes) for place, own in budgets.items()}
            nodes = self._merged(counts)
        return Budget(
            depth=self._merged(depths),
            width=tuple(
                max(own.width_of(forward) for own in budgets.values()) for forward in range(deepest)
            ),
            nodes=nodes,
            children=max(own.max_children for own in budgets.values()),
        )

    def _merged(self, of_arms: dict[int, Tensor]) -> Tensor:
        """Each text's own of what the chosen arms say, [P, ...] or less."""
        places = list(of_arms)
        merged, *others = of_arms.values()
        for place, values in zip(places[1:], others, strict=True):
            merged = torch.where(self._is_chosen(place, values), values, merged)
        return merged

    def _is_chosen(self, place: int, like: Tensor) -> Tensor:
        """[P], or [P, 1] for values [P, ...]: the texts whose round this arm decides."""
        is_chosen = torch.from_numpy(self._chosen == place).to(like.device)
        return is_chosen.unsqueeze(1) if like.ndim == 2 else is_chosen

    def expand(self, tree: DraftTree, frontier: Tensor, budget: Budget) -> Tensor:
        answers = {
            place: self.arms[place].expand(tree, frontier, self._own(place, budget))
            for place in self._budgets
        }
        num_children = self._merged(answers)
        if self.cost is not None:
            is_open = (num_children > 0) & (
                torch.as_tensor(budget.depth).view(-1, 1) > tree.num_levels
            )
            if len(tree) > 0:
                is_open &= tree.valid.gather(1, frontier)
            self._widths.append(is_open.sum(1).clamp(max=budget.width_of(tree.num_levels)))
        return num_children

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        answers = {
            place: self.arms[place].select(tree, self._own(place, budget))
            for place in self._budgets
        }
        return self._merged(answers)

    def _own(self, place: int, budget: Budget) -> Budget:
        """An arm's own budget, as deep as the round may be."""
        if len(self._budgets) == 1:
            return budget
        return replace(self._budgets[place], depth=budget.depth)

    def observe(self, outcome: Outcome) -> None:
        if self._context.round > 0:
            self._learn(outcome)
        for place in self._budgets:
            if self.arms[place].learns:
                self.arms[place].observe(self._seen_by(place, outcome))

    def _learn(self, outcome: Outcome) -> None:
        teaches = (outcome.num_emitted.cpu() > 0) & (self._context.remaining > self._depth)
        seconds = self._round_seconds(outcome)
        seconds = torch.where(seconds > 0, seconds, 1.0)  # a clock that stands still: by rounds
        chosen = F.one_hot(torch.from_numpy(self._chosen), len(self.arms)).double()
        chosen *= teaches.unsqueeze(1)
        self.tokens = self.tokens + chosen * outcome.num_emitted.cpu().unsqueeze(1)
        self.seconds = self.seconds + chosen * seconds.unsqueeze(1)
        self.num_rounds = self.num_rounds + chosen

    def _round_seconds(self, outcome: Outcome) -> Tensor:
        """Of drafting and verification, [P] float64."""
        if self.cost is None:
            return (outcome.draft_seconds + outcome.verify_seconds).cpu()
        num_texts = len(self._chosen)
        is_tree = {
            place: torch.tensor(own.max_children > 1) for place, own in self._budgets.items()
        }
        widths = [width.cpu() for width in self._widths]
        shapes = RoundShapes(
            contexts=self._context.num_tokens - 1,
            widths=torch.stack(widths, dim=1) if widths else torch.zeros(num_texts, 0).long(),
            nodes=outcome.tree.valid.sum(1).cpu(),
            is_tree=self._merged(is_tree).expand(num_texts),
            caught_up=outcome.num_emitted.cpu(),
        )
        return self.cost.draft_seconds(shapes) + self.cost.verify_seconds(shapes)

    def _seen_by(self, place: int, outcome: Outcome) -> Outcome:
        """The outcome of an arm's own rounds; the others drafted nothing and teach nothing."""
        if len(self._budgets) == 1:
            return outcome
        own: dict[str, Any] = {}
        for name in ("tested", "accepted", *PER_ROUND):
            values = getattr(outcome, name)
            own[name] = values * self._is_chosen(place, values)
        return replace(outcome, **own)

    def state_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in STATE} if self.across_texts else {}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state.items() if key not in STATE})
        for name in STATE:
            if name in state:
                setattr(self, name, state[name])


class UCB(_Bandit):
    """Asks, each round, the policy whose tokens a second may be highest.

    Args:
        *arms: policies or stop rules, at least two; a rule stops a chain.
        exploration: how much may be hoped of what is little known, in units of the best rate.
        across_texts: go on learning from one text to the next; else each begins anew.
        cost: a cost table that prices rounds: a file, a bundled one, or itself; None: the seconds
            that they take.
    """

    def _optimism(self, num_rounds: Floats) -> Floats:
        total = np.maximum(num_rounds.sum(axis=1, keepdims=True), 1.0)
        hopes: Floats = np.sqrt(2 * np.log(total) / np.maximum(num_rounds, 1.0))
        return hopes


class Thompson(_Bandit):
    """Asks, each round, the policy of the highest draw from what is known of tokens a second.

    Args:
        *arms: policies or stop rules, at least two; a rule stops a chain.
        exploration: how uncertain one round leaves a rate, in units of the best rate.
        across_texts: go on learning from one text to the next; else each begins anew.
        cost: a cost table that prices rounds: a file, a bundled one, or itself; None: the seconds
            that they take.
        seed: of the draws.
    """

    def __init__(
        self,
        *arms: Policy | StopRule,
        exploration: float = 0.5,
        across_texts: bool = False,
        cost: str | Path | CostModel | None = None,
        seed: int = 0,
    ) -> None:
        at_least(0, seed=seed)
        self.seed = seed
        super().__init__(*arms, exploration=exploration, across_texts=across_texts, cost=cost)

    def _optimism(self, num_rounds: Floats) -> Floats:
        # Draws are numbered by the rounds a text has had, so that texts side by side do not meet.
        draws = [
            np.random.Generator(np.random.Philox(key=[self.seed, int(total)])).standard_normal(
                num_rounds.shape[1]
            )
            for total in num_rounds.sum(axis=1)
        ]
        hopes: Floats = np.stack(draws) / np.sqrt(np.maximum(num_rounds, 1.0))
        return hopes
