"""Answering prompts with one policy, showing the text a round at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from transformers import PreTrainedTokenizerBase

from adaeagle import Piece, Policy, Round, stream
from adaeagle.data.prompts import Conversation, Prompt, read_prompts, spread
from adaeagle.decoding.sampling import Sampling
from experiments.errors import InputError, argument
from experiments.runs.models import Models


def questions(text: str | None, prompts: str | None, limit: int | None) -> list[Prompt]:
    """What was asked, from `--prompt` or `--prompts`."""
    if (text is None) == (prompts is None):
        given = "neither" if text is None else "both"
        raise InputError(f"one of --prompt and --prompts must be given, got {given}")
    if prompts is None:
        with argument("--prompt", text):
            return [Prompt("prompt", turns=(text or "",))]
    with argument("--prompts", prompts):
        found = read_prompts(prompts)
    return found if limit is None else spread(found, limit)


def answers(
    models: Models,
    policy: Policy,
    prompt: Prompt,
    chosen_sampling: Sampling,
    max_new_tokens: int,
    stop: Sequence[str],
    on_piece: Callable[[Piece | None, str], None],
) -> Iterator[dict[str, Any]]:
    """Answers every turn of a prompt.

    Args:
        models: target and drafter.
        policy: how to draft.
        prompt: the question, of one turn or several.
        chosen_sampling: the distribution of the text.
        max_new_tokens: of an answer.
        stop: texts at which an answer ends.
        on_piece: called after every round with its piece and the text that it adds; at the end of
            an answer with None and what was held back.

    Yields:
        An answer a turn: its token ids, its text as it is decoded, its rounds and seconds.
    """
    talk = Conversation(models.target, prompt)
    while (prompt_ids := talk.next_ids()) is not None:
        pieces = stream(
            models.target,
            models.drafter,
            policy,
            prompt_ids,
            max_new_tokens=max_new_tokens,
            temperature=chosen_sampling.temperature,
            top_p=chosen_sampling.top_p,
            top_k=chosen_sampling.top_k,
            sampling=chosen_sampling.mode,
            seed=chosen_sampling.seed,
            stop=stop,
        )
        transcript = Transcript(models.target.tokenizer)
        seen: list[Piece] = []
        for piece in pieces:
            seen.append(piece)
            on_piece(piece, transcript.add(piece.token_ids))
        on_piece(None, transcript.rest())
        yield _answer(prompt.id, talk.num_answered, seen, transcript)
        talk.answer(transcript.token_ids)


class Transcript:
    """A growing answer, as text where there is a tokenizer, else as token ids.

    Args:
        tokenizer: None: pieces are numbers apart by blanks.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._num_shown = 0
        self.token_ids: list[int] = []

    @property
    def text(self) -> str | None:
        """The whole answer; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        return str(self._tokenizer.decode(self.token_ids, skip_special_tokens=True))

    @property
    def shown(self) -> str:
        """The whole answer as it is shown."""
        text = self.text
        return " ".join(map(str, self.token_ids)) if text is None else text

    def add(self, token_ids: list[int]) -> str:
        """What `token_ids` add to what was shown.

        A character whose bytes are not all there yet waits for the next piece.
        """
        self.token_ids += token_ids
        text = self.text
        if text is None:
            return "".join(f"{token} " for token in token_ids)
        new = text[self._num_shown :]
        if new.endswith("\ufffd"):
            return ""
        self._num_shown = len(text)
        return new

    def rest(self) -> str:
        """What waited for bytes that never came."""
        return (self.text or "")[self._num_shown :]


def _answer(
    prompt_id: str, turn: int, pieces: list[Piece], transcript: Transcript
) -> dict[str, Any]:
    rounds: list[Round] = [piece.round for piece in pieces if piece.round is not None]
    return {
        "id": prompt_id,
        "turn": turn,
        "token_ids": transcript.token_ids,
        "text": transcript.text,
        "rounds": [asdict(found) for found in rounds],
        "seconds": sum(piece.seconds for piece in pieces),
        "prefill_seconds": pieces[0].seconds,
    }
