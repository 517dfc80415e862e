"""Texts under a policy, whole or piece by piece. A round is `decoder`'s."""

from collections.abc import Iterator
from collections.abc import Sequence as Many
from functools import partial

from adaeagle.decoding.decoder import Decoder
from adaeagle.decoding.sampling import Sampling, SamplingMode
from adaeagle.decoding.sequence import Sequence
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.identify import identify
from adaeagle.models.target import Target
from adaeagle.policy import Policy
from adaeagle.records import Generation, Piece
from adaeagle.registry import get_policy


def generate(
    target: Target,
    drafter: Drafter | None,
    policy: Policy | str,
    prompt_ids: Many[int],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    sampling: SamplingMode = "rejection",
    seed: int = 0,
    stop_token_ids: Many[int] | None = None,
) -> Generation:
    """Continues a prompt; the text does not depend on drafter or policy, its speed does.

    Args:
        target: the model whose text it is.
        drafter: proposes tokens; None is enough for a policy that never drafts.
        policy: how much to draft and in which shape, as an object or a spec for `get_policy`.
        prompt_ids: at least one token.
        max_new_tokens: most tokens to emit; the target's `max_length` limits prompt and text.
        temperature: 0 takes the likeliest token.
        top_p: see `Sampling`.
        top_k: see `Sampling`.
        sampling: how drafted tokens are accepted at a temperature above 0: `rejection` keeps the
            target's distribution; `coupled` lets the seed alone decide the text, and accepts less.
        seed: of everything random in this text.
        stop_token_ids: end the text, and are its last token; None: the model's own; []: never.

    Raises:
        ValueError: an argument is out of its range, or the prompt fills the context.
    """
    pieces = stream(
        target,
        drafter,
        policy,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        sampling=sampling,
        seed=seed,
        stop_token_ids=stop_token_ids,
    )
    first, *rest = pieces
    return Generation(
        token_ids=first.token_ids + [token for piece in rest for token in piece.token_ids],
        rounds=[piece.round for piece in rest if piece.round is not None],
        seconds=first.seconds + sum(piece.seconds for piece in rest),
        prefill_seconds=first.seconds,
    )


def stream(
    target: Target,
    drafter: Drafter | None,
    policy: Policy | str,
    prompt_ids: Many[int],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    sampling: SamplingMode = "rejection",
    seed: int = 0,
    stop_token_ids: Many[int] | None = None,
) -> Iterator[Piece]:
    """Like `generate`, a piece at a time: the prefill's token first, then each round's."""
    chosen_sampling = Sampling(temperature, top_p, top_k, sampling, seed)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
    if len(prompt_ids) < 1:
        raise ValueError("prompt_ids must hold at least one token, got none")
    if len(prompt_ids) >= target.max_length:
        raise ValueError(
            f"prompt_ids must be shorter than the context of {target.max_length} tokens, "
            f"got {len(prompt_ids)}"
        )
    low, high = min(prompt_ids), max(prompt_ids)
    if low < 0 or high >= target.vocab_size:
        raise ValueError(
            f"prompt_ids must be in 0..{target.vocab_size - 1}, got {low if low < 0 else high}"
        )
    target.check_processors(chosen_sampling.is_greedy)
    limit = min(max_new_tokens, target.max_length - len(prompt_ids))
    stops = target.eos_token_ids if stop_token_ids is None else tuple(stop_token_ids)
    policy = get_policy(policy)
    policy.check(partial(identify, target, drafter))
    sequence = Sequence(
        prompt_ids=list(prompt_ids), limit=limit, stop_token_ids=frozenset(stops), seed=seed
    )
    return _pieces(Decoder(target, drafter, policy, chosen_sampling, [sequence]), sequence)


def _pieces(decoder: Decoder, sequence: Sequence) -> Iterator[Piece]:
    yield from decoder.prefill()
    while not sequence.is_done:
        yield from decoder.step()
