"""How many drafted tokens of a greedy chain the target would accept, at every position at once.

The text is the target's own greedy text, so a drafted token is accepted where it equals the text's;
up to there the chain's tokens are the text's, and feeding those gives the chain's own features.

Shapes: B texts, T pairs, H hidden size, D features already there.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adaeagle.drafters.eagle3_head import Eagle3Head
from adaeagle.drafters.eagle_head import EagleHead
from adaeagle.models.kv_cache import KVCache, additive


@torch.no_grad()
def accepted_lengths(
    head: EagleHead | Eagle3Head,
    likeliest: Callable[[Tensor], Tensor],
    token_ids: Tensor,
    embeddings: Tensor,
    features: Tensor,
    length: int,
) -> Tensor:
    """Accepted tokens of chains of `length` drafted from every pair.

    Args:
        head: drafts.
        likeliest: the token that the head's output [..., H] says first, the target's id [...].
        token_ids: [B, T+1] the text.
        embeddings: [B, T+1, H] of the text.
        features: [B, T+1, H] the target's, as the head reads them (`Eagle3Head.fuse`).
        length: drafted tokens a chain.

    Returns:
        [B, T] int64; chain i is drafted from pair (f_i, t_{i+1}) and begins with t_{i+2}. A chain
        that runs over the end of the text counts what lies inside.
    """
    num_texts, num_pairs = token_ids.shape[0], token_ids.shape[1] - 1
    device = token_ids.device
    cache = KVCache(head.layer_shapes(), length * num_pairs, num_texts)
    index = torch.arange(num_pairs, device=device)
    causal = torch.ones(num_pairs, num_pairs, dtype=torch.bool, device=device).tril()
    own = torch.eye(num_pairs, dtype=torch.bool, device=device)
    states = features[:, :num_pairs]
    is_alive = torch.ones(num_texts, num_pairs, dtype=torch.bool, device=device)
    accepted = torch.zeros(num_texts, num_pairs, dtype=torch.int64, device=device)
    for step in range(length):
        # Chain i at this step: pair i + step, which sees the true pairs up to i and its own nodes.
        taken = (index + 1 + step).clamp(max=num_pairs)
        allowed = torch.cat((causal, *(own for _ in range(step))), dim=1)
        mask = additive(allowed, states.dtype)[None, None]
        positions = (index + step).expand(num_texts, -1)
        states = head(embeddings[:, taken], states, positions, mask, cache)
        drafted = likeliest(states)
        following = (index + 2 + step).clamp(max=num_pairs)
        is_inside = index + 2 + step <= num_pairs
        is_alive &= (drafted == token_ids[:, following]) & is_inside
        accepted += is_alive
    return accepted
