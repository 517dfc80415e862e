"""Medusa's heads: every dialect of a checkpoint, and one forward against a few lines."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from adaeagle.drafters.base import Drafter
from adaeagle.drafters.medusa import MedusaDrafter
from adaeagle.drafters.medusa_heads import MedusaHeads
from adaeagle.drafters.pretrained import kind_of
from adaeagle.models.target import Target
from adaeagle.testing import DrafterContract
from adaeagle.testing.contracts import tiny_pair

H, V, M = 16, 32, 3


def random_weights(
    num_heads: int = M, num_blocks: int = 1, outputs: bool = True
) -> dict[str, Tensor]:
    """Of official names."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        noise: Tensor = torch.randn(*shape, generator=draw) / H**0.5
        return noise

    weights = {}
    for head in range(num_heads):
        for block in range(num_blocks):
            weights[f"{head}.{block}.linear.weight"] = normal(H, H)
            weights[f"{head}.{block}.linear.bias"] = normal(H)
        if outputs:
            weights[f"{head}.{num_blocks}.weight"] = normal(V, H)
    return weights


def expected(weights: Mapping[str, Tensor], feature: Tensor, shared: Tensor | None) -> Tensor:
    """Heads of one block on [H], computed from the weights of official names: [M, V]."""
    found = []
    for head in range(M):
        weight, bias = weights[f"{head}.0.linear.weight"], weights[f"{head}.0.linear.bias"]
        state = feature + F.silu(weight @ feature + bias)
        found.append((weights[f"{head}.1.weight"] if shared is None else shared) @ state)
    return torch.stack(found)


def write(folder: Path, weights: Mapping[str, Tensor], file: str, **config: object) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith(".pt"):
        torch.save(dict(weights), folder / file)
    else:
        save_file({key: weight.clone() for key, weight in weights.items()}, folder / file)
    return str(folder)


def vllm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under vLLM's names."""
    renamed = {}
    for key, weight in weights.items():
        head, place, *rest = key.split(".")
        is_block = rest[0] == "linear"
        new = f"blocks.{head}.layers.{place}.{rest[-1]}" if is_block else f"lm_heads.{head}.weight"
        renamed[f"medusa_heads.{new}"] = weight
    return renamed


@pytest.fixture
def target() -> Target:
    return tiny_pair(V, H)[0]


@pytest.mark.parametrize("dialect", ["official", "pickle", "with its target", "legacy", "vllm"])
def test_dialects(dialect: str, tmp_path: Path, target: Target) -> None:
    weights = random_weights(outputs=dialect != "legacy")
    file, stored = "medusa_lm_head.safetensors", dict(weights)
    if dialect == "pickle":
        file = "medusa_lm_head.pt"
    elif dialect == "with its target":
        stored = {f"medusa_head.{key}": weight for key, weight in weights.items()}
        stored |= {"lm_head.weight": torch.zeros(V, H), "model.norm.weight": torch.ones(H)}
        file = "model.safetensors"
    elif dialect == "vllm":
        stored, file = vllm(weights), "model.safetensors"
    name = write(tmp_path / "head", stored, file, medusa_num_heads=2, medusa_num_layers=1)
    drafter = MedusaDrafter.from_pretrained(name, target)
    assert drafter.max_depth == M  # as many as there are, whatever the config says
    shared = target.model.lm_head.weight if dialect == "legacy" else None
    feature = torch.randn(H, generator=torch.Generator().manual_seed(1))
    found = drafter.logits(feature[None])[:, 0]
    torch.testing.assert_close(found, expected(weights, feature, shared))


def test_one_output_layer_for_all_and_a_smaller_vocabulary(tmp_path: Path, target: Target) -> None:
    weights = vllm(random_weights(outputs=False))
    output = torch.randn(5, H, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([3, 8, 9, 20, 31])
    weights |= {"medusa_heads.lm_head.weight": output, "medusa_heads.token_map": ids}
    drafter = MedusaDrafter.from_pretrained(
        write(tmp_path / "head", weights, "model.safetensors"), target
    )
    assert drafter.logits(torch.zeros(1, H)).shape == (M, 1, 5)
    assert drafter.vocab_map is not None
    assert drafter.vocab_map.tolist() == ids.tolist()


def test_one_block_in_place_of_several_alike(tmp_path: Path, target: Target) -> None:
    """The official code repeats a single block; safetensors keep it once."""
    weights = random_weights(outputs=False)
    name = write(tmp_path / "head", weights, "model.safetensors", medusa_num_layers=2)
    heads = MedusaDrafter.from_pretrained(name, target).heads
    assert heads.num_blocks == 2
    state = torch.ones(H)
    for _ in range(2):
        state = state + F.silu(weights["0.0.linear.weight"] @ state + weights["0.0.linear.bias"])
    torch.testing.assert_close(heads.states(torch.ones(H))[0], state)


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("1.0.linear.weight 1.0.linear.bias", {}, r"each head from 0, got \[0, 2\]"),
        ("1.1.weight", {}, "for each head or for none, got 3 heads and the layers of"),
        ("2.0.linear.bias", {}, "whole Medusa heads, all alike"),
        ("", {"0.1.weight": torch.zeros(V, H + 1)}, "whole Medusa heads, all alike"),
        ("", {f"{head}.1.weight": torch.zeros(V + 1, H) for head in range(M)}, "vocab_size"),
    ],
)
def test_what_does_not_fit_is_refused(
    drop: str, add: dict[str, Tensor], message: str, tmp_path: Path, target: Target
) -> None:
    weights = {k: w for k, w in random_weights().items() if k not in drop.split()} | add
    name = write(tmp_path / "head", weights, "model.safetensors")
    with pytest.raises(ValueError, match=message):
        MedusaDrafter.from_pretrained(name, target)


def test_a_file_of_something_else(tmp_path: Path, target: Target) -> None:
    name = write(tmp_path / "head", {"fc.weight": torch.zeros(2, 2)}, "model.safetensors")
    with pytest.raises(ValueError, match="must hold Medusa heads"):
        MedusaDrafter.from_pretrained(name, target)


def test_new_heads_say_what_the_target_said_last(target: Target) -> None:
    """Blocks begin as the identity, so that training begins from the target's own output."""
    drafter = MedusaDrafter(MedusaHeads(2, 1, H), target)
    feature = torch.randn(1, H, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drafter.logits(feature)[1], target.logits(feature))


def test_saved_heads_are_read_back(tmp_path: Path, target: Target) -> None:
    name = write(tmp_path / "head", random_weights(num_blocks=2), "model.safetensors")
    drafter = MedusaDrafter.from_pretrained(name, target)
    drafter.save_pretrained(tmp_path / "copy")
    copy = MedusaDrafter.from_pretrained(str(tmp_path / "copy"), target)
    feature = torch.ones(1, H)
    assert torch.equal(copy.logits(feature), drafter.logits(feature))


class TestMedusa(DrafterContract):
    @pytest.fixture
    def drafter(self, target: Target) -> Drafter:
        heads = MedusaHeads(M, 1, H)
        heads.load_state_dict(random_weights(outputs=False))
        return MedusaDrafter(heads, target)


@pytest.mark.parametrize("prefix", ["", "medusa_head.", "module.medusa_head."])
def test_files_tell_medusas_heads(prefix: str, tmp_path: Path) -> None:
    weights = {prefix + key: weight for key, weight in random_weights().items()}
    folder = write(tmp_path, weights, "model.safetensors")
    assert kind_of(folder) == "medusa"
    other = write(tmp_path / "lm", {"lm_head.weight": torch.ones(1)}, "model.safetensors")
    assert kind_of(other) == "lm"
