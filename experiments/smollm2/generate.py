"""Answers of SmolLM2 to prompts, many side by side: text to train on.

Batched sums differ from those of one text, so near-ties may fall otherwise than plain decoding's.
"""

import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from adaeagle import stream_batch
from adaeagle.models.target import Target

Prompt = tuple[str, list[int]]
"""Its id, and its token ids."""

AT_ONCE = 2048
"""Prompts read before any of them is answered; where they end, rows stand empty for a while."""


def answer(
    target: Target,
    prompts: Iterator[Prompt],
    out: Path,
    *,
    num_rows: int = 64,
    max_new_tokens: int = 160,
    seconds: float | None = None,
) -> int:
    """Appends the answers to `out` as they end; texts that a kill cuts off are made anew.

    Args:
        target: answers at temperature 0.
        prompts: those not answered yet.
        out: JSON Lines, see `experiments.smollm2.own_text`.
        num_rows: prompts answered side by side.
        max_new_tokens: longest answer.
        seconds: when to stop; None: after the last prompt.

    Returns:
        the number of answer tokens.
    """
    begun, num_tokens = time.monotonic(), 0
    with out.open("a", encoding="utf-8") as file:
        while chosen := list(islice(prompts, AT_ONCE)):
            answers: list[list[int]] = [[] for _ in chosen]
            for number, piece in stream_batch(
                target,
                None,
                "vanilla",
                [prompt_ids for _, prompt_ids in chosen],
                max_batch=num_rows,
                max_new_tokens=max_new_tokens,
            ):
                if seconds is not None and time.monotonic() - begun >= seconds:
                    return num_tokens
                own = answers[number]
                own += piece.token_ids
                num_tokens += len(piece.token_ids)
                if own[-1] in target.eos_token_ids or len(own) == max_new_tokens:
                    name, prompt_ids = chosen[number]
                    text = {"id": name, "prompt_ids": prompt_ids, "answer_ids": own}
                    file.write(json.dumps(text) + "\n")
                    file.flush()
    return num_tokens
