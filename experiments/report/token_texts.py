"""Tokens as text, for reading: one at a time, and in the flow of their text."""

from collections.abc import Sequence

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from adaeagle.data.bundled import bundled_folder
from experiments.runs.generate import Transcript
from experiments.views.drafts import VISIBLE


def load_tokenizer(target: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a target by its name; None where it has none or is not to be found."""
    try:
        return AutoTokenizer.from_pretrained(str(bundled_folder(target, "target") or target))
    except (OSError, ValueError):
        return None


class TokenTexts:
    """Texts of the tokens that were asked for, each once.

    Args:
        tokenizer: None: tokens are shown as their ids.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._places: dict[int, int] = {}

    def places(self, token_ids: Sequence[int]) -> list[int]:
        """Where in `texts` each token's text stands."""
        return [self._places.setdefault(token, len(self._places)) for token in token_ids]

    @property
    def token_ids(self) -> list[int]:
        """All tokens that were asked for."""
        return list(self._places)

    @property
    def texts(self) -> list[str]:
        """Of each of them, blanks and breaks made visible."""
        if self._tokenizer is None:
            return [str(token) for token in self._places]
        return [str(self._tokenizer.decode([token])).translate(VISIBLE) for token in self._places]

    def prompt(self, token_ids: Sequence[int]) -> str:
        """A whole prompt, its special tokens included."""
        if self._tokenizer is None:
            return " ".join(map(str, token_ids))
        return str(self._tokenizer.decode(list(token_ids)))

    def flow(self, token_ids: Sequence[int]) -> list[str]:
        """What each token adds to an answer; nothing where its bytes wait for the next token's."""
        transcript = Transcript(self._tokenizer)
        special = set(self._tokenizer.all_special_ids) if self._tokenizer is not None else set()
        pieces = []
        for token in token_ids:
            piece = transcript.add([token])
            if token in special and self._tokenizer is not None:
                piece += str(self._tokenizer.decode([token]))
            pieces.append(piece)
        return pieces
