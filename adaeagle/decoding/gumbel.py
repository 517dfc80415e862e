"""Noise that a seed fixes for every position and token, so that it alone decides a sampled text.

With independent standard Gumbel noise g, argmax_v(log p(v) + g(v)) has the distribution p (the
Gumbel-max trick: Maddison et al. 2014, https://arxiv.org/abs/1411.0030). The noise is
counter-based: no state, no order of draws, the same numbers for the target and for a draft of the
same position.

The bits are SplitMix64's (Steele, Lea & Flood 2014, https://doi.org/10.1145/2660193.2660195): one
stream for each seed and position, the token counting along it. Integer arithmetic alone, so every
device makes the same bits; only the two logarithms may differ in their last place.

Shapes: P positions, V vocabulary.
"""

import torch
from torch import Tensor

STEP = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, odd, as a signed 64-bit integer
FIRST = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
SECOND = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def gumbel_noise(
    seed: int, start: int, num_positions: int, vocab_size: int, device: torch.device | str
) -> Tensor:
    """Standard Gumbel noise of `num_positions` positions from `start` on, float32 [P, V].

    Args:
        seed: any integer; equal modulo 2^64 means equal noise.
        start: absolute position of the first row: where the token that it chooses will stand.
        num_positions: P.
        vocab_size: V.
        device: where it is made.
    """
    uniforms = uniform_noise(seed, start, num_positions, vocab_size, device)
    return uniforms.log_().neg_().log_().neg_().float()


def uniform_noise(
    seed: int, start: int, num_positions: int, vocab_size: int, device: torch.device | str
) -> Tensor:
    """Uniform noise in the open interval (0, 1), float64 [P, V]; arguments as `gumbel_noise`."""
    signed_seed = (seed + 2**63) % 2**64 - 2**63
    positions = torch.arange(start, start + num_positions, device=device).unsqueeze(1)
    tokens = torch.arange(1, vocab_size + 1, device=device)
    key = _mixed(_mixed(torch.full_like(positions, signed_seed)) + positions * STEP)
    bits = _mixed(key + tokens * STEP)
    # The upper 52 bits and a half, which keeps 0 and 1 out, are a double's 53.
    return (_shifted(bits, 12).double() + 0.5).mul_(2.0**-52)


def _mixed(state: Tensor) -> Tensor:
    """SplitMix64's output function; products wrap modulo 2^64."""
    state = (state ^ _shifted(state, 30)) * FIRST
    state = (state ^ _shifted(state, 27)) * SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, count: int) -> Tensor:
    """A shift to the right that fills with zeros, where int64's own fills with the sign."""
    return (state >> count) & ((1 << (64 - count)) - 1)
