"""Tokens of growing texts as characters: what each piece adds, and where a stop string ends it."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"
"""What a tokenizer makes of the first bytes of a character."""


class GrowingText:
    """A text that is shown piece by piece.

    Args:
        tokenizer: decodes it; special tokens are left out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._num_shown = 0

    def add(self, token_ids: Sequence[int], *, is_last: bool) -> str:
        """What tokens add to the text that was shown; the pieces in a row are the whole text.

        A character whose bytes are not all there yet waits for the next piece, if there is one.
        """
        self._token_ids += token_ids
        text = str(self._tokenizer.decode(self._token_ids, skip_special_tokens=True))
        if text.endswith(UNFINISHED) and not is_last:
            return ""
        new = text[self._num_shown :]
        self._num_shown = len(text)
        return new


class StopStrings:
    """Where texts end that are to end at certain strings.

    Args:
        strings: the text ends with the token that completes the first of them.
        tokenizer: decodes it, special tokens included.
    """

    def __init__(self, strings: Sequence[str], tokenizer: PreTrainedTokenizerBase | None) -> None:
        if isinstance(strings, str) or not all(isinstance(one, str) and one for one in strings):
            raise ValueError(f"stop must be a list of texts that are not empty, got {strings!r}")
        if strings and tokenizer is None:
            raise ValueError("stop needs the target's tokenizer, it has none: use stop_token_ids")
        self._strings, self._tokenizer = list(strings), tokenizer
        self._reach = max((len(one.encode()) for one in strings), default=0)  # tokens, at most

    def end(self, before: Sequence[int], new: Sequence[int]) -> int | None:
        """How many of the new tokens there are up to the end of a stop string; None: there is none.

        Args:
            before: tokens of the text so far.
            new: tokens that follow.
        """
        if not self._strings or self._tokenizer is None:
            return None
        tail = [*before[-self._reach :], *new]
        num_before = len(tail) - len(new)
        for end in range(num_before + 1, len(tail) + 1):
            text = str(self._tokenizer.decode(tail[max(0, end - self._reach - 1) : end]))
            if any(one in text for one in self._strings):
                return end - num_before
        return None
