"""Stop where a rejection somewhere in the draft has become likely, as a predictor sees it.

Source: SpecDec++, Huang et al. 2024, https://arxiv.org/abs/2405.19715: a head tells each drafted
token's probability of acceptance; drafting stops where one minus their product exceeds a threshold,
0.3 in the published settings, which draft 2 to 20 tokens.
Differs from the paper: any predictor of acceptance will do (`predictors.acceptance.specdec_pp` is
the paper's); no least length; on trees each path is judged by itself.

Shapes: P rounds side by side, F frontier nodes.
"""

import math
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.identity import Identify
from adaeagle.policy import Context, StopRule
from adaeagle.ranges import in_unit
from adaeagle.search_space import Float, SearchSpace
from adaeagle.tree import DraftTree
from policies.support.path_scores import PathScores
from predictors.acceptance.base import AcceptancePredictor
from predictors.base import load_as


class SpecDecPP(StopRule):
    """Goes on from a node while the risk that its path is rejected somewhere is at most `max_risk`.

    Args:
        predictor: of acceptance: its folder, a bundled one, or itself.
        max_risk: a probability in [0, 1].
    """

    search_space: ClassVar[SearchSpace] = {"max_risk": Float(0.05, 0.95)}

    def __init__(
        self,
        predictor: str | Path | AcceptancePredictor = "mini/specdec_pp",
        max_risk: float = 0.3,
    ) -> None:
        in_unit(max_risk=max_risk)
        self.predictor = load_as(AcceptancePredictor, predictor)  # type: ignore[type-abstract]
        self.needs = self.predictor.needs
        self.max_risk = max_risk
        self._least = math.log1p(-max_risk) if max_risk < 1 else -math.inf
        self._scorer = self.predictor.scorer()
        self._paths = PathScores(self._log_accept, torch.add)

    def check(self, identify: Identify) -> None:
        self.predictor.check(identify())

    def begin(self, context: Context) -> None:
        self._paths.clear()
        self._scorer.begin(context)

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        return self._paths.of(tree).gather(1, frontier) >= self._least

    def _log_accept(self, tree: DraftTree, rows: Tensor) -> Tensor:
        return F.logsigmoid(self._scorer.log_odds(tree, rows))
