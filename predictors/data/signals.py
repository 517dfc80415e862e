"""Inputs that cost nothing: what is known of a drafted token beside the path's probability.

    draft    entropy of the distribution it was proposed from, lead over the second choice, depth
    target   how sure the target was of the pending token: entropy, lead over the second choice
    suffix   whether the text's end occurred before, how long that match is, whether the draft goes
             along with what followed there, how much of the draft's end the text has had before
    history  what earlier rounds of this text accepted, beside what was promised
    token    class of the drafted token and of the pending one
    feature  the target's feature of the last verified token

All but `token` are read from a `Context`, a draft and outcomes alone, live and from traces alike.

Shapes: P rounds side by side, Q positions of a trace, K tokens of their chains, S signals of a
group, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from adaeagle.policy import Context
from adaeagle.trace.trace import Trace
from predictors.data.chains import Chains, round_starts
from predictors.data.history import History
from predictors.data.suffix_match import MOST_ECHO, WINDOW, echoes, repeats

GROUPS = ("draft", "target", "suffix", "history", "token", "feature")
NUM_TOP = 8
"""Choices of the target that a trace holds of each token."""
CLASSES = ("space", "digits", "punctuation", "capitalised", "word", "piece")


def target_signals(context: Context) -> Tensor:
    """Entropy in nats of the target's best choices and the rest, and the first one's lead: [P, 2].

    They are of the distribution that the pending token comes from.

    Raises:
        ValueError: the context does not tell.
    """
    if context.target_log_probs is None:
        raise ValueError("target_log_probs must be known, got none")
    best = context.target_log_probs(NUM_TOP).float()  # [P, 8]
    rest = (1 - best.exp().sum(1, keepdim=True)).clamp(min=1e-9).log()
    whole = torch.cat((best, rest), dim=1)
    entropy = -(whole.exp() * whole).sum(1)
    return torch.stack((entropy, whole[:, 0] - whole[:, 1]), dim=1)


def suffix_signals(context: Context, token_ids: Tensor) -> Tensor:
    """What a suffix automaton would know of drafts token_ids [P, K]: [P, K, 3].

    The logarithm of the length of the match, whether the draft up to this token is what followed
    there, and how many tokens of the draft's end the text has had in this order.

    Raises:
        ValueError: the context does not tell.
    """
    if context.recent is None:
        raise ValueError("recent tokens must be known, got none")
    found = repeats(context.recent(WINDOW), token_ids.shape[1])
    lengths = torch.tensor([each.length for each in found]).float().log1p()
    following = torch.tensor([each.following for each in found])
    agrees = (following == token_ids).long().cumprod(1).float()
    pairs = zip(found, token_ids.tolist(), strict=True)
    echoed = torch.tensor([echoes(repeat, ids) for repeat, ids in pairs]).float() / MOST_ECHO
    return torch.stack((lengths.unsqueeze(1).expand_as(agrees), agrees, echoed), dim=2)


def token_classes(vocab_size: int, decode: Callable[[int], str]) -> Tensor:
    """The class of every token, [V] int64 as numbered in `CLASSES`.

    Args:
        vocab_size: V.
        decode: a token's text.
    """
    return torch.tensor([CLASSES.index(_class(decode(token))) for token in range(vocab_size)])


def _class(text: str) -> str:
    inner = text.strip()
    if not inner:
        return "space"
    if any(letter.isdigit() for letter in inner):
        return "digits"
    if not any(letter.isalpha() for letter in inner):
        return "punctuation"
    if inner[0].isupper():
        return "capitalised"
    return "word" if text[0].isspace() else "piece"


def chain_history(trace: Trace, chains: Chains) -> Tensor:
    """`history` at every position, as rounds that draft whole chains would leave it: [Q, S].

    A position inside a round is given what was known when the round began.
    """
    positions = trace.positions
    visited = round_starts(positions, chains.lengths)
    texts = positions.text_of[visited]
    first = torch.searchsorted(texts, torch.arange(len(trace.texts)))
    counts = torch.bincount(texts, minlength=len(trace.texts))
    history, num_texts = History(), len(trace.texts)
    found = torch.zeros(len(visited), history.signals(1).shape[1])
    for step in range(int(counts.max())):
        is_active = step < counts
        number = torch.where(is_active, first + step, 0)
        found[number[is_active]] = history.signals(num_texts)[is_active]
        at = visited[number]
        probs = chains.log_probs[at].exp()
        history.add(probs, chains.tested[at], chains.accepted[at], is_active)
    return found[torch.searchsorted(visited, torch.arange(len(positions)), right=True) - 1]


def chain_signals(trace: Trace, chains: Chains, classes: Tensor | None) -> dict[str, Tensor]:
    """Every group that is known of the chains of a trace: [Q, K, S] float32 each.

    Args:
        trace: what was recorded.
        chains: of `read_chains`, with two confidences or more.
        classes: [V] of `token_classes`; None: there is no group `token`.
    """
    rows, size = torch.arange(len(trace.positions)), chains.k_max
    context = trace.positions.context(rows, -1)
    depths = torch.arange(1, size + 1).float().expand(len(rows), -1)
    lead = chains.confidences[..., 0] - chains.confidences[..., 1]
    whole = {"target": target_signals(context), "history": chain_history(trace, chains)}
    assert context.features is not None
    whole["feature"] = context.features.float()
    found = {name: each.unsqueeze(1).expand(-1, size, -1) for name, each in whole.items()}
    found["draft"] = torch.stack((chains.entropies, lead, depths), dim=2)
    found["suffix"] = suffix_signals(context, chains.token_ids)
    if classes is not None:
        pending = classes[context.token_ids].unsqueeze(1).expand(-1, size)
        found["token"] = torch.stack((classes[chains.token_ids], pending), dim=2).float()
    return {name: found[name] for name in GROUPS if name in found}
