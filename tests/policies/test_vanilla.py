"""Plain decoding as a policy."""

import torch

from adaeagle import Context
from policies import Vanilla


def test_nothing_is_drafted() -> None:
    one = torch.ones(1, dtype=torch.int64)
    assert Vanilla().plan(Context(0, one, 99 * one, one, one)).depth == 0
