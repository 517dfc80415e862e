"""One recorded answer: the target's own text at temperature 0, and what it saw there.

Shapes: A prompt tokens, L new tokens, Q = L - 1 positions at which a round can begin, D feature
size, C feature layers, K recorded target choices.
"""

from dataclasses import dataclass

from torch import Tensor

from adaeagle.trace.envelope import Envelope


@dataclass(frozen=True, slots=True)
class RecordedText:
    """One turn of one prompt, answered by the target.

    A round begins at position q with q + 1 tokens emitted: token q is the pending one, the last
    token the target was run on is the one before it, and token q + 1 is what a draft must say.
    """

    prompt_id: str
    turn: int
    category: str
    source: str
    prompt_ids: Tensor  # [A] int64
    token_ids: Tensor  # [L] int64, the prefill's token first
    limit: int  # tokens that could have been emitted; more than L where a stop token ended it
    features: Tensor  # [A + L - 1, D] the target's last features, of all tokens but the text's last
    draft_features: Tensor | None  # [A + L - 1, C*D] what the draft model reads, if anything else
    top_token_ids: Tensor  # [L, K] int64, the target's best choices for each new token
    top_log_probs: Tensor  # [L, K] float32
    envelope: Envelope  # of Q positions

    @property
    def num_positions(self) -> int:
        """Q, how many positions a round can begin at."""
        return max(0, len(self.token_ids) - 1)
