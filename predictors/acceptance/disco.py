"""A stop or continue network in the manner of DISCO.

Source: dynamic speculation lookahead, Mamou et al. 2024, https://arxiv.org/abs/2405.04304: a small
feed-forward network reads the draft's ten best probabilities, their distribution's entropy and the
token's place in the draft, and says whether to go on; drafting stops where it says so less surely
than a threshold. Differs from the paper, which we know from its abstract and reports: hidden size
64, SiLU; "go on" is learned as "this token will be accepted if those before it are", from the
tokens that a verification judges.

Shapes: P rounds side by side, F nodes of each, B examples, S inputs.
"""

import torch
from torch import Tensor, nn

from adaeagle.identity import ModelIdentity
from adaeagle.ranges import at_least
from predictors.acceptance.base import AcceptancePredictor, check_classes, weighted_loss
from predictors.base import Batch, TrainedPredictor, setting_fields
from predictors.data.nodes import Nodes
from predictors.layers.context import Standardize


@setting_fields
class DiscoPredictor(AcceptancePredictor, TrainedPredictor):
    """Two-layer network on confidences, entropy and depth.

    Args:
        shape: spec of the policy whose drafts it is trained on.
        hidden_size: of the network.
    """

    kind = "disco"
    num_confidences = 10

    shape: str = "chain(length=16)"
    hidden_size: int = 64

    def check_settings(self) -> None:
        at_least(1, hidden_size=self.hidden_size)

    def build(self, models: ModelIdentity, embedding: Tensor | None) -> None:
        size = self.num_confidences + 2
        self.scale = Standardize(size)
        self.network = nn.Sequential(
            nn.Linear(size, self.hidden_size), nn.SiLU(), nn.Linear(self.hidden_size, 1)
        )

    def measure(self, batch: Batch) -> None:
        check_classes(batch["accepted"])
        self.scale.measure(_inputs(Nodes.of_batch(batch)))

    def log_odds(self, nodes: Nodes, encoded: Tensor | None) -> Tensor:
        odds: Tensor = self.network(self.scale(_inputs(nodes)))
        return odds.squeeze(-1)

    def loss(self, batch: Batch) -> Tensor:
        return weighted_loss(self.batch_log_odds(batch), batch["accepted"], 1.0)


def _inputs(nodes: Nodes) -> Tensor:
    """[..., S]."""
    assert nodes.confidences is not None
    return torch.cat((nodes.confidences.exp(), nodes.scalars("entropy", "depth")), dim=-1)
