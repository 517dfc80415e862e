"""Texts under a policy, whole or piece by piece, alone or side by side. A round is `decoder`'s."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from adaeagle.decoding.decoder import Decoder
from adaeagle.decoding.prompt_ids import Prompt, read_prompt
from adaeagle.decoding.sampling import Sampling, SamplingMode
from adaeagle.decoding.sequence import Sequence
from adaeagle.decoding.texts import GrowingText, StopStrings
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
    prompt_ids: Prompt,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    sampling: SamplingMode = "rejection",
    seed: int = 0,
    stop_token_ids: Many[int] | None = None,
    stop: Many[str] = (),
) -> Generation:
    """Continues a prompt; the text does not depend on drafter or policy, its speed does.

    Args:
        target: the model whose text it is.
        drafter: proposes tokens; None is enough for a policy that never drafts.
        policy: how much to draft and in which shape, as an object or a spec for `get_policy`.
        prompt_ids: at least one token, as a list, a tensor [T] or [1, T], or a `BatchEncoding` of
            one row; or a conversation, as the messages that `target.encode_chat` takes.
        max_new_tokens: most tokens to emit; the target's `max_length` limits prompt and text.
        temperature: 0 takes the likeliest token.
        top_p: see `Sampling`.
        top_k: see `Sampling`.
        sampling: how drafted tokens are accepted at a temperature above 0: `rejection` keeps the
            target's distribution; `coupled` lets the seed alone decide the text, and accepts less.
        seed: of everything random in this text.
        stop_token_ids: end the text, and are its last token; None: the model's own; []: never.
        stop: texts at which it ends too, with the token that completes the first of them.

    Raises:
        TypeError: an argument is of another kind, such as a text for token ids.
        ValueError: an argument is out of its range, or the prompt fills the context.
        ArithmeticError: the target's logits are no numbers.
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
        stop=stop,
    )
    return Generation.of(list(pieces))


def stream(
    target: Target,
    drafter: Drafter | None,
    policy: Policy | str,
    prompt_ids: Prompt,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    sampling: SamplingMode = "rejection",
    seed: int = 0,
    stop_token_ids: Many[int] | None = None,
    stop: Many[str] = (),
) -> Iterator[Piece]:
    """Like `generate`, a piece at a time: the prefill's token first, then each round's."""
    pieces = stream_batch(
        target,
        drafter,
        policy,
        [prompt_ids],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        sampling=sampling,
        seed=seed,
        stop_token_ids=stop_token_ids,
        stop=stop,
    )
    return (piece for _, piece in pieces)


def generate_batch(
    target: Target,
    drafter: Drafter | None,
    policy: Policy | str,
    prompts: Many[Prompt],
    *,
    max_batch: int = 8,
    max_new_tokens: int | Many[int] = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    sampling: SamplingMode = "rejection",
    seed: int | Many[int] = 0,
    stop_token_ids: Many[int] | None = None,
    stop: Many[str] = (),
) -> list[Generation]:
    """Continues many prompts side by side: each text is what `generate` makes of it alone.

    Texts that end leave, and waiting ones take their places. Seconds are those of the rounds that
    a text took part in, its neighbours' share included: what its reader waits for.

    Args:
        target: as in `generate`.
        drafter: as in `generate`.
        policy: as in `generate`. One that learns from each round begins anew with every
            `max_batch` texts, which then wait for each other; one that learns across texts takes
            them one after another.
        prompts: each as in `generate`.
        max_batch: most texts side by side.
        max_new_tokens: of every text, or of each.
        temperature: as in `generate`.
        top_p: as in `generate`.
        top_k: as in `generate`.
        sampling: as in `generate`.
        seed: of each text; one number: of the first, and one more for every next.
        stop_token_ids: as in `generate`.
        stop: as in `generate`.

    Raises:
        ValueError: an argument is out of its range, or a prompt fills the context.
    """
    pieces: list[list[Piece]] = [[] for _ in prompts]
    for number, piece in stream_batch(
        target,
        drafter,
        policy,
        prompts,
        max_batch=max_batch,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        sampling=sampling,
        seed=seed,
        stop_token_ids=stop_token_ids,
        stop=stop,
    ):
        pieces[number].append(piece)
    return [Generation.of(own) for own in pieces]


def stream_batch(
    target: Target,
    drafter: Drafter | None,
    policy: Policy | str,
    prompts: Many[Prompt],
    *,
    max_batch: int = 8,
    max_new_tokens: int | Many[int] = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    sampling: SamplingMode = "rejection",
    seed: int | Many[int] = 0,
    stop_token_ids: Many[int] | None = None,
    stop: Many[str] = (),
) -> Iterator[tuple[int, Piece]]:
    """Like `generate_batch`, a piece at a time, each with the number of its prompt."""
    if max_batch < 1:
        raise ValueError(f"max_batch must be >= 1, got {max_batch}")
    _check_kinds(target, drafter, prompts)
    how = Sampling(temperature, top_p, top_k, sampling)
    target.check_processors(how.is_greedy)
    stops = frozenset(target.eos_token_ids if stop_token_ids is None else stop_token_ids)
    stop_strings = StopStrings(stop, target.tokenizer) if stop else None
    limits = _each("max_new_tokens", max_new_tokens, len(prompts))
    if isinstance(seed, int):
        seed = range(seed, seed + len(prompts))
    seeds = _each("seed", seed, len(prompts))
    read = [read_prompt(target, prompt) for prompt in prompts]
    sequences = [
        Sequence(
            prompt_ids=prompt_ids,
            limit=_limit(target, prompt_ids, most),
            stop_token_ids=stops,
            seed=own_seed,
            stop=stop_strings,
        )
        for prompt_ids, most, own_seed in zip(read, limits, seeds, strict=True)
    ]
    policy = get_policy(policy)
    policy.check(partial(identify, target, drafter))
    begin = partial(Decoder, target, drafter, policy, how)
    # What a policy learns is one entry a row, so that rows keep their texts, unless it learns of
    # all together; what it keeps from one text to the next is of one row.
    keeps_rows = policy.learns and policy.scope == "row"
    if keeps_rows and policy.state_dict():
        max_batch = 1
    pieces = _side_by_side(begin, sequences, max_batch, is_continuous=not keeps_rows)
    return pieces if target.tokenizer is None else _with_texts(pieces, sequences, target.tokenizer)


def _with_texts(
    pieces: Iterator[tuple[int, Piece]],
    sequences: Many[Sequence],
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[tuple[int, Piece]]:
    texts = [GrowingText(tokenizer) for _ in sequences]
    for number, piece in pieces:
        text = texts[number].add(piece.token_ids, is_last=sequences[number].is_done)
        yield number, replace(piece, text=text)


def _each(name: str, values: int | Many[int], count: int) -> Many[int]:
    """One number for all texts, or one of each."""
    if isinstance(values, int):
        return [values] * count
    if len(values) != count:
        raise ValueError(f"{name} must be one number or {count}, one a prompt, got {len(values)}")
    return values


def _check_kinds(target: Any, drafter: Any, prompts: Any) -> None:
    """Says in one line what stands in another's place."""
    if isinstance(target, str | Drafter | Policy):
        raise TypeError(f"target must be an adaeagle.Target, got {target!r}")
    if isinstance(drafter, str | Target | Policy):
        raise TypeError(
            f"drafter must come from adaeagle.get_drafter(spec, target) or be None, got {drafter!r}"
        )
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Many):
        raise TypeError(f"prompts must be a list of prompts, got {type(prompts).__name__}")


def _limit(target: Target, prompt_ids: Many[int], max_new_tokens: int) -> int:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
    return min(max_new_tokens, target.max_length - len(prompt_ids))


def _side_by_side(
    begin: Callable[[list[Sequence]], Decoder],
    sequences: list[Sequence],
    max_batch: int,
    *,
    is_continuous: bool,
) -> Iterator[tuple[int, Piece]]:
    """Decodes all sequences, at most `max_batch` at a time.

    Args:
        begin: makes a decoder of its first sequences.
        sequences: in the order in which they begin.
        max_batch: most of them side by side.
        is_continuous: waiting texts take the places of those that end; else they wait for all.
    """
    waiting = deque(range(len(sequences)))
    while waiting:
        running = [waiting.popleft() for _ in range(min(max_batch, len(waiting)))]
        decoder = begin([sequences[number] for number in running])
        yield from zip(running, decoder.prefill(), strict=True)
        while True:
            if is_continuous:
                yield from _exchange(decoder, sequences, running, waiting)
            is_open = [not sequences[number].is_done for number in running]
            if not any(is_open):
                break
            pieces = zip(running, decoder.step(), is_open, strict=True)
            yield from ((number, piece) for number, piece, goes_on in pieces if goes_on)


def _exchange(
    decoder: Decoder, sequences: list[Sequence], running: list[int], waiting: deque[int]
) -> Iterator[tuple[int, Piece]]:
    """Between two rounds: texts that have ended leave, waiting ones enter.

    One enters at a time, so that a round waits for one prompt at most; if none goes on, all do.
    """
    has_open = any(not sequences[number].is_done for number in running)
    for place, number in enumerate(running):
        if waiting and sequences[number].is_done:
            running[place] = waiting.popleft()
            yield running[place], decoder.replace(place, sequences[running[place]])
            if has_open:
                return
    kept = [place for place, number in enumerate(running) if not sequences[number].is_done]
    if 0 < len(kept) < len(running) and not waiting:
        decoder.keep(kept)
        running[:] = [running[place] for place in kept]
