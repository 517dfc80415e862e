"""Which prompts are for tuning and training, and which are kept for the test.

A prompt's split is fixed by the hash of its id among the prompts of its kind, so it depends neither
on the order of the prompts nor on the machine. It does depend on which prompts there are: split a
whole set, then choose of it.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal

from adaeagle.data.prompts import Prompt, grouping

Split = Literal["tune", "test"]
TUNE: Split = "tune"
TEST: Split = "test"


def split_of(prompts: Sequence[Prompt]) -> dict[str, Split]:
    """The split of each prompt by its id: half of every kind of prompts for each.

    Kinds are sources or categories, whichever tells more apart. The prompts of a kind are ranked by
    the SHA-256 of their ids, the lower half is for tuning. Of an odd number the middle one goes by
    the last bit of its hash, so a prompt that is the only one of its kind does too.
    """
    key = grouping(prompts)
    kinds: dict[str, list[str]] = {}
    for prompt in prompts:
        kinds.setdefault(getattr(prompt, key), []).append(prompt.id)
    found: dict[str, Split] = {}
    for ids in kinds.values():
        ranked = sorted(ids, key=_hash)
        half, is_odd = divmod(len(ranked), 2)
        num_tune = half + (is_odd and _hash(ranked[half])[-1] & 1)
        found |= dict.fromkeys(ranked[:num_tune], TUNE) | dict.fromkeys(ranked[num_tune:], TEST)
    return {prompt.id: found[prompt.id] for prompt in prompts}


def _hash(prompt_id: str) -> bytes:
    return sha256(prompt_id.encode()).digest()
