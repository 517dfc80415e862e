"""What of a text's end has been said before, and how it went on then.

Sources: prompt lookup (https://github.com/apoorvumang/prompt-lookup-decoding) drafts such
continuations, and SAM-Decoding (https://arxiv.org/abs/2411.10666) goes by how long the match is.
Differs from them: nothing is drafted from here. A draft model's own tokens that say the same are
more likely to be accepted, the more so the longer the match: what a predictor may know.

A text is searched as a string, a character a token, which is what takes the least time.
Shapes: P texts, W tokens looked back, K tokens of a continuation.
"""

import numpy as np
import numpy.typing as npt

WINDOW = 256
"""Tokens looked back."""
MOST = 64
"""Longer matches are as good as this."""
LEAST = 2
"""Shorter matches are none."""
NUM_CHARACTERS = 0x110000

Ints = npt.NDArray[np.int64]


def repeats(recent: Ints, num_tokens: int) -> tuple[Ints, Ints]:
    """The longest suffix of each text that occurs in it before, and what followed there.

    Of several occurrences the latest counts; it may overlap the suffix, as in a text that loops,
    and the continuation then goes round.

    Args:
        recent: [P, W] the last tokens of each text, -1 before its beginning.
        num_tokens: K.

    Returns:
        lengths of the matches [P], 0: none; and continuations [P, K], -1 where there is no match.
    """
    lengths = np.zeros(len(recent), np.int64)
    following = np.full((len(recent), num_tokens), -1)
    for row, codes in enumerate(_texts(recent)):
        length, lag = _longest(codes)
        if length >= LEAST:
            lengths[row] = length
            period = recent[row, -lag:][:num_tokens]
            if len(period) < num_tokens:
                period = np.resize(period, num_tokens)
            following[row] = period
    return lengths, following


def _texts(recent: Ints) -> list[str]:
    characters = (recent % NUM_CHARACTERS).astype("<u4")  # -1 becomes one that is no token
    width = 4 * recent.shape[1]
    whole = characters.tobytes()
    return [
        whole[start : start + width].decode("utf-32-le", "surrogatepass")
        for start in range(0, len(whole), width)
    ]


def _longest(text: str) -> tuple[int, int]:
    """Length of the longest suffix that occurs earlier, at most `MOST`, and how far back it does.

    Where a suffix occurs, all shorter ones do: so the length is bisected.
    """
    size = len(text)
    low, high, found = 0, min(MOST, size - 1) + 1, 0
    step = LEAST
    while low + 1 < high:
        length = min(low + step, high - 1)
        place = text.rfind(text[size - length :], 0, size - 1)
        if place < 0:
            high, step = length, max(1, (length - low) // 2)
        else:
            low, found, step = length, size - length - place, 2 * step
    return low, found
