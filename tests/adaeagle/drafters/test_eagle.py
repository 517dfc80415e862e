"""EAGLE-1/2 heads on disk, and heads that do not fit their target."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaeagle import EagleDrafter, ModelDrafter, Target, generate
from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig

GOLDEN = Path(__file__).parent.parent.parent / "golden"

Change = Callable[[dict[str, Any], dict[str, Tensor]], None]


@pytest.fixture(scope="module")
def target() -> Target:
    return Target.from_pretrained(str(GOLDEN / "rand/target"))


@pytest.fixture
def changed_head(tmp_path: Path) -> Callable[[Change], str]:
    """A copy of a recorded head whose config and weights were changed."""

    def make(change: Change) -> str:
        source = GOLDEN / "rand/eagle_head_l3style"
        folder = tmp_path / "head"
        folder.mkdir()
        raw = json.loads((source / "config.json").read_text(encoding="utf-8"))
        weights = load_file(source / "model.safetensors")
        change(raw, weights)
        (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
        save_file(weights, folder / "model.safetensors")
        return str(folder)

    return make


def test_a_bin_and_a_safetensors_file_are_the_same_head(target: Target, tmp_path: Path) -> None:
    binary = EagleDrafter.from_pretrained(str(GOLDEN / "rand/eagle_head"), target)
    shutil.copy(GOLDEN / "rand/eagle_head/config.json", tmp_path)
    weights = torch.load(GOLDEN / "rand/eagle_head/pytorch_model.bin", weights_only=True)
    save_file({name: w.contiguous() for name, w in weights.items()}, tmp_path / "model.safetensors")
    tensors = EagleDrafter.from_pretrained(str(tmp_path), target)
    for one, other in zip(
        binary.head.state_dict().items(), tensors.head.state_dict().items(), strict=True
    ):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
    assert binary.embedding is not None
    assert tensors.embedding is not None
    assert torch.equal(binary.embedding, tensors.embedding)


def test_absent_keys_mean_what_they_mean_officially() -> None:
    """No `bias`: the input layer has one. No `rope_theta`: 10000. No key-value heads: all."""
    raw = json.loads((GOLDEN / "rand/eagle_head/config.json").read_text(encoding="utf-8"))
    assert not {"bias", "rope_theta", "num_key_value_heads"} & raw.keys()
    config = EagleHeadConfig.from_json(raw)
    assert config.fc_bias
    assert not config.qkv_bias
    assert config.rope_theta == 10000
    assert config.num_key_value_heads == config.num_attention_heads == 4


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_saved_head_comes_back(
    num_layers: int, qkv_bias: bool, target: Target, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = EagleHeadConfig(
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=num_layers,
        vocab_size=128,
        rms_norm_eps=1e-5,
        hidden_act="silu",
        rope_theta=5e5,
        fc_bias=False,
        qkv_bias=qkv_bias,
    )
    drafter = EagleDrafter(EagleHead(config), target)
    drafter.save_pretrained(tmp_path / "head")
    back = EagleDrafter.from_pretrained(str(tmp_path / "head"), target)
    assert back.head.config == config
    assert back.embedding is None
    texts = [
        generate(target, one, "eagle2(depth=3, width=3)", [1, 2, 3], max_new_tokens=12)
        for one in (drafter, back)
    ]
    assert texts[0].token_ids == texts[1].token_ids
    assert [r.num_accepted for r in texts[0].rounds] == [r.num_accepted for r in texts[1].rounds]
    weights = load_file(tmp_path / "head" / "model.safetensors")
    assert "embed_tokens.weight" not in weights


def drop_fc(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
    del weights["fc.weight"]


def add_norm(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
    weights["norm.weight"] = torch.ones(64)


def widen(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
    raw["hidden_size"] = 128


def other_vocabulary(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
    raw["vocab_size"] = 32000


def other_intermediate(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
    raw["intermediate_size"] = 96


def no_heads(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
    del raw["num_attention_heads"]


def other_embedding(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
    weights["embed_tokens.weight"] = torch.zeros(128, 32)


def as_eagle3(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
    weights["midlayer.hidden_norm.weight"] = torch.ones(64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_fc, r"weights of an EAGLE-1/2 head: missing \['fc\.weight'\], not known \[\]"),
        (add_norm, r"missing \[\], not known \['norm\.weight'\]"),
        (widen, "must .*, got "),
        (other_vocabulary, "the head's vocab_size must be .* 128, got 32000"),
        (other_intermediate, r"gate_proj\.weight of .* must have shape \(96, 64\), .*\(160, 64\)"),
        (no_heads, r"config\.json must have \['num_attention_heads'\]"),
        (other_embedding, r"embed_tokens\.weight must have shape \(128, 64\), got \(128, 32\)"),
        (as_eagle3, "EAGLE-3|draft_vocab_size"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    change: Change, message: str, target: Target, changed_head: Callable[[Change], str]
) -> None:
    name = changed_head(change)
    with pytest.raises(ValueError, match=message):
        EagleDrafter.from_pretrained(name, target)


def test_hidden_size_of_another_target(target: Target) -> None:
    with pytest.raises(ValueError, match=r"the head's hidden_size must be .* 64, got 128"):
        EagleDrafter.from_pretrained(str(GOLDEN / "trained/eagle_head"), target)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no-such-head"])
def test_missing_folders(name: str, target: Target) -> None:
    with pytest.raises(FileNotFoundError, match="a draft head must be a folder, a bundled name"):
        EagleDrafter.from_pretrained(name, target)


def test_a_folder_without_weights(target: Target, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "rand/eagle_head/config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"must hold one of .* model\.safetensors"):
        EagleDrafter.from_pretrained(str(tmp_path), target)


def test_a_truncated_file(target: Target, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "rand/eagle_head/config.json", tmp_path)
    whole = (GOLDEN / "rand/eagle_head/pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin must be whole and readable"):
        EagleDrafter.from_pretrained(str(tmp_path), target)


def test_a_pickle_that_runs_code_is_not_run(target: Target, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return (touch, (str(tmp_path / "sprung"),))

    shutil.copy(GOLDEN / "rand/eagle_head/config.json", tmp_path)
    torch.save({"fc.weight": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="must be whole and readable"):
        EagleDrafter.from_pretrained(str(tmp_path), target)
    assert not (tmp_path / "sprung").exists()


def touch(path: str) -> None:
    """What the trap would do."""
    Path(path).touch()


def test_a_draft_model_of_another_vocabulary(
    target: Target, make_model: Callable[..., Any]
) -> None:
    small = Target(make_model("llama"), name="small")
    with pytest.raises(ValueError, match=r"draft model's vocab_size must be .* 128, got 96"):
        ModelDrafter(small, target)


def test_a_draft_model_from_a_folder(target: Target) -> None:
    """The target drafts for itself: everything is accepted."""
    drafter = ModelDrafter.from_pretrained(str(GOLDEN / "rand/target"), target)
    out = generate(target, drafter, "chain(length=4)", [1, 2, 3], max_new_tokens=21)
    assert [r.num_accepted for r in out.rounds] == [4, 4, 4, 4]
