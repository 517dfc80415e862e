"""Stop only where the predicted length is reached and the path has become unlikely.

Source: AdaEAGLE-DDD of Zhang et al. 2024, https://arxiv.org/abs/2412.18910: LDLP and a threshold on
the product of the draft's probabilities, exp(-0.6), together; the longer draft of both.
Differs from the paper: on trees each path is judged by itself.
"""

from pathlib import Path
from typing import ClassVar

from adaeagle.search_space import Float, SearchSpace
from policies.combine import AllOf
from policies.cumulative import Cumulative
from policies.ldlp import LDLP
from predictors.length.ldlp import LengthPredictor


class LDLPDDD(AllOf):
    """Goes on from a node as long as `ldlp` or `cumulative` would.

    Args:
        predictor: as of `ldlp`.
        log_threshold: as of `cumulative`.
        offset: as of `ldlp`.
    """

    search_space: ClassVar[SearchSpace] = {
        "log_threshold": Float(-3.0, -0.05),
        "offset": Float(-3.0, 3.0),
    }

    def __init__(
        self,
        predictor: str | Path | LengthPredictor = "mini/ldlp",
        log_threshold: float = -0.6,
        offset: float = 0.0,
    ) -> None:
        super().__init__(LDLP(predictor, offset), Cumulative(log_threshold))
