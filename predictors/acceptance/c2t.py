"""A node scorer in the manner of C2T: how likely a node of a tree lies on the accepted path.

Source: C2T, Huo et al. 2025, https://arxiv.org/abs/2502.13652: a two-layer feed-forward network on
a node's joint probability, entropy and depth scores it in place of the joint probability when trees
are grown and cut.
Differs from the paper, which we know from reports: hidden size 32, SiLU; the inputs are the joint
probability and its logarithm; trained on every node that EAGLE-2's tree would verify.

Shapes: P rounds side by side, F nodes of each, B examples, S inputs.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from adaeagle.cost.model import CostModel
from adaeagle.identity import ModelIdentity
from adaeagle.ranges import at_least
from adaeagle.trace.trace import Trace
from predictors.acceptance.base import NodePredictor, check_classes
from predictors.base import Batch, Examples, TrainedPredictor, setting_fields
from predictors.data.nodes import Nodes, read_nodes
from predictors.layers.context import Standardize

SCALARS = ("path_prob", "path_log_prob", "entropy", "depth")


@setting_fields
class C2TPredictor(NodePredictor, TrainedPredictor):
    """Two-layer network on a node's joint probability, entropy and depth.

    Args:
        shape: spec of the policy whose trees it is trained on.
        hidden_size: of the network.
    """

    kind = "c2t"
    policies = ("c2t",)
    confidence = "path_log_probs"

    shape: str = "eagle2(depth=8, width=10, nodes=59)"
    hidden_size: int = 32

    def check_settings(self) -> None:
        at_least(1, hidden_size=self.hidden_size)

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        self.scale = Standardize(len(SCALARS))
        self.network = nn.Sequential(
            nn.Linear(len(SCALARS), self.hidden_size), nn.SiLU(), nn.Linear(self.hidden_size, 1)
        )

    def examples(self, trace: Trace, cost: CostModel | None) -> Examples:
        nodes = read_nodes(trace, self.shape)
        del nodes.columns["tested"]  # below a rejected node the answer is known: no
        return nodes

    def measure(self, batch: Batch) -> None:
        check_classes(batch["accepted"])
        self.scale.measure(Nodes.of_batch(batch).scalars(*SCALARS))

    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        """Of each node's being accepted with all above it, [P, F]."""
        odds: Tensor = self.network(self.scale(nodes.scalars(*SCALARS)))
        return odds.squeeze(-1)

    def loss(self, batch: Batch) -> Tensor:
        odds = self.batch_log_odds(batch)
        return F.binary_cross_entropy_with_logits(odds, batch["accepted"].float())
