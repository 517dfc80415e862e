"""What callers pass as a prompt, as token ids."""

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

from adaeagle.models.target import Target

Prompt = Any
"""Token ids: a list, a tensor of shape [T] or [1, T], or a `BatchEncoding` of one row; or a
conversation, as a list of messages."""


def read_prompt(target: Target, prompt: Prompt) -> list[int]:
    """The token ids of one prompt, whichever form it comes in.

    Raises:
        TypeError: it is none of the forms of `Prompt`; the message says what to do.
        ValueError: there are no tokens, too many, several prompts, or no tokens of the target's.
    """
    if isinstance(prompt, str):
        raise TypeError(
            f"prompt_ids must be token ids, got a text: pass target.encode_chat({prompt[:20]!r})"
        )
    if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], Mapping):
        ids = target.encode_chat(prompt)
    else:
        ids = _whole_numbers(prompt)
    if not ids:
        raise ValueError("prompt_ids must hold at least one token, got none")
    if len(ids) >= target.max_length:
        raise ValueError(
            f"prompt_ids must be shorter than the context of {target.max_length} tokens, "
            f"got {len(ids)}"
        )
    low, high = min(ids), max(ids)
    if low < 0 or high >= target.vocab_size:
        raise ValueError(
            f"prompt_ids must be in 0..{target.vocab_size - 1}, got {low if low < 0 else high}"
        )
    return ids


def _whole_numbers(prompt: Any) -> list[int]:
    if isinstance(prompt, Mapping):
        ids = _row(prompt.get("input_ids"))
        if (mask := prompt.get("attention_mask")) is not None:
            ids = [token for token, is_own in zip(ids, _row(mask), strict=True) if is_own]
    else:
        ids = _row(prompt)
    try:
        return [index(token) for token in ids]
    except TypeError:
        raise TypeError(f"prompt_ids must be whole numbers, got {str(ids)[:60]}") from None


def _row(values: Any) -> list[Any]:
    """A list, tensor or array of one row, as a list."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"prompt_ids must be a list or tensor of token ids, got {values!r}"[:200])
    rows = list(values)
    if rows and isinstance(rows[0], list | tuple):
        if len(rows) > 1:
            raise ValueError(
                f"prompt_ids must be one prompt, got {len(rows)}: see adaeagle.generate_batch"
            )
        rows = list(rows[0])
    return rows
