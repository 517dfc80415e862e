"""A node scorer in the manner of C2T: how likely a node of a tree lies on the accepted path.

Source: C2T, Huo et al. 2025, https://arxiv.org/abs/2502.13652: a two-layer feed-forward network on
a node's joint probability, entropy and depth scores it in place of the joint probability when trees
are grown and cut.
Differs from the paper, which we know from reports: hidden size 32, SiLU; the inputs are the joint
probability and its logarithm; trained on every node that EAGLE-2's tree would verify.
"""

from adaeagle.cost.model import CostModel
from adaeagle.trace.trace import Trace
from predictors.acceptance.base import TwoLayers
from predictors.base import Examples, setting_fields
from predictors.data.nodes import read_nodes


@setting_fields
class C2TPredictor(TwoLayers):
    """Two-layer network on a node's joint probability, entropy and depth.

    What it tells are the odds that a node is accepted with all above it.

    Args:
        shape: spec of the policy whose trees it is trained on.
        hidden_size: of the network.
    """

    kind = "c2t"
    policies = ("c2t",)
    confidence = "path_log_probs"
    scalars = ("path_prob", "path_log_prob", "entropy", "depth")

    shape: str = "eagle2(depth=8, width=10, nodes=59)"
    hidden_size: int = 32

    def examples(self, trace: Trace, cost: CostModel | None) -> Examples:
        nodes = read_nodes(trace, self.shape)
        del nodes.columns["tested"]  # below a rejected node the answer is known: no
        return nodes
