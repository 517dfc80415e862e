"""Medusa's heads: one for each place behind the pending token, on the target's last feature.

Source: Medusa, Cai et al. 2024, https://arxiv.org/abs/2401.10774, and its code,
https://github.com/FasterDecoding/Medusa.
Differs from it: the number of heads is that of the weights, where the configs of official
checkpoints say 2 for files of 5; heads without output layers of their own use the target's, as the
first trainer's do; the blocks of one head may differ.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

T = TypeVar("T")

PREFIXES = "medusa_head.", "medusa_heads.", ""
"""What stands before the keys of the heads: in a file with the target, in vLLM's, in one of heads
alone."""

KEYS = (
    # Official: head, place in it; the output layer comes last.
    (re.compile(r"(\d+)\.(\d+)\.linear\.(weight|bias)"), "block"),
    (re.compile(r"(\d+)\.(\d+)\.weight"), "output"),
    # vLLM's: all blocks, then all output layers or one for all.
    (re.compile(r"blocks\.(\d+)\.layers\.(\d+)\.(weight|bias)"), "block"),
    (re.compile(r"lm_heads\.(\d+)\.weight"), "output"),
)


class ResBlock(nn.Module):
    """x + SiLU(W x + b), the identity at first.

    Args:
        size: of x.
        bias: whether there is a b.
    """

    def __init__(self, size: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size, bias=bias)
        for weight in self.linear.parameters():
            nn.init.zeros_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.linear(x))


class MedusaHeads(nn.ModuleList):
    """Heads side by side, with the names that the official checkpoints have.

    Args:
        num_heads: one for each level of a draft.
        num_blocks: of each head.
        size: H of the target's features.
        vocab_size: V of output layers of their own; None: the target's output layer is used.
        bias: whether blocks have biases.
    """

    def __init__(
        self,
        num_heads: int,
        num_blocks: int,
        size: int,
        vocab_size: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.size, self.num_blocks, self.vocab_size = size, num_blocks, vocab_size
        for _ in range(num_heads):
            layers: list[nn.Module] = [ResBlock(size, bias) for _ in range(num_blocks)]
            if vocab_size is not None:
                layers.append(nn.Linear(size, vocab_size, bias=False))
            self.append(nn.ModuleList(layers))

    def states(self, features: Tensor) -> list[Tensor]:
        """What each head's output layer reads: [..., H], a head each."""
        found = []
        for head in self.heads:
            state = features
            for block in head[: self.num_blocks]:
                state = block(state)
            found.append(state)
        return found

    def outputs(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Each head's own output layer on its state: [..., V], a head each."""
        return [head[-1](state) for head, state in zip(self.heads, states, strict=True)]

    @property
    def heads(self) -> list[nn.ModuleList]:
        """The layers of each head."""
        return [head for head in self if isinstance(head, nn.ModuleList)]

    def to_json(self) -> dict[str, Any]:
        """The config of the official layout."""
        return {
            "medusa_num_heads": len(self),
            "medusa_num_layers": self.num_blocks,
            "hidden_size": self.size,
        }


@dataclass(slots=True)
class Parts:
    """The weights of a checkpoint, sorted: of each head its blocks, and its output layer."""

    blocks: dict[int, dict[int, dict[str, Tensor]]] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    token_map: Tensor | None = None


def sort_weights(weights: Mapping[str, Tensor]) -> Parts:
    """Reads any of the dialects; what belongs to no head, such as a whole target, is left out."""
    prefix = next(p for p in PREFIXES if not p or any(key.startswith(p) for key in weights))
    parts = Parts()
    for key, weight in weights.items():
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if name == "token_map":
            parts.token_map = weight
        for pattern, what in KEYS:
            if (match := pattern.fullmatch(name)) is None:
                continue
            head = int(match[1])
            if what == "output":
                parts.outputs[head] = weight
            else:
                parts.blocks.setdefault(head, {}).setdefault(int(match[2]), {})[match[3]] = weight
    shared = weights.get(f"{prefix}lm_head.weight")  # one for all: vLLM's `original_lm_head`
    if shared is not None and not parts.outputs:
        parts.outputs = dict.fromkeys(parts.blocks, shared)
    return parts


def read_heads(name: str, raw: Mapping[str, Any], weights: Mapping[str, Tensor]) -> MedusaHeads:
    """The heads of a checkpoint.

    Args:
        name: for messages.
        raw: its config.
        weights: its weights, of any dialect.

    Raises:
        ValueError: heads, blocks or output layers are missing.
    """
    parts = sort_weights(weights)
    if not parts.blocks:
        raise ValueError(f"{name} must hold Medusa heads, '0.0.linear.weight' and so on, got none")
    heads = _in_order(name, "head", parts.blocks)
    blocks = [_in_order(name, f"block of head {number}", head) for number, head in enumerate(heads)]
    # The official code repeats one block; files without duplicates hold it once.
    num_blocks = max(len(blocks[0]), int(raw.get("medusa_num_layers", 1)))
    blocks = [(own * num_blocks if len(own) == 1 else own) for own in blocks]
    missing = sorted(set(range(len(heads))) - set(parts.outputs))
    if missing and parts.outputs:
        raise ValueError(
            f"{name} must hold an output layer for each head or for none, got {len(heads)} heads "
            f"and the layers of {sorted(parts.outputs)}"
        )
    size = blocks[0][0]["weight"].shape[0]
    vocab_size = len(parts.outputs[0]) if parts.outputs else None
    found = MedusaHeads(len(heads), num_blocks, size, vocab_size, "bias" in blocks[0][0])
    state = {
        f"{head}.{place}.linear.{part}": weight
        for head, own in enumerate(blocks)
        for place, block in enumerate(own)
        for part, weight in block.items()
    }
    state |= {f"{head}.{num_blocks}.weight": weight for head, weight in parts.outputs.items()}
    try:
        found.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{name} must hold whole Medusa heads, all alike: {error}") from None
    return found


def _in_order(name: str, what: str, numbered: Mapping[int, T]) -> list[T]:
    """Values by number, none left out."""
    for number in range(len(numbered)):
        if number not in numbered:
            raise ValueError(f"{name} must hold each {what} from 0, got {sorted(numbered)}")
    return [numbered[number] for number in range(len(numbered))]
