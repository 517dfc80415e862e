"""A stop or continue network in the manner of DISCO.

Source: dynamic speculation lookahead, Mamou et al. 2024, https://arxiv.org/abs/2405.04304: a small
feed-forward network reads the draft's ten best probabilities, their distribution's entropy and the
token's place in the draft, and says whether to go on; drafting stops where it says so less surely
than a threshold. Differs from the paper, which we know from its abstract and reports: hidden size
64, SiLU; "go on" is learned as "this token will be accepted if those before it are", from the
tokens that a verification judges.
"""

from predictors.acceptance.base import AcceptancePredictor, TwoLayers
from predictors.base import setting_fields


@setting_fields
class DiscoPredictor(AcceptancePredictor, TwoLayers):
    """Two-layer network on confidences, entropy and depth.

    Args:
        shape: spec of the policy whose drafts it is trained on.
        hidden_size: of the network.
    """

    kind = "disco"
    num_confidences = 10
    scalars = ("entropy", "depth")

    shape: str = "chain(length=16)"
    hidden_size: int = 64
