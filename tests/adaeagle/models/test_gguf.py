"""Targets in one GGUF file, made here with the writer of the package `gguf`."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import adaeagle
from adaeagle import Target
from adaeagle.models import gguf as ours
from experiments.cli import main

gguf = pytest.importorskip("gguf")

HEADS, KV_HEADS, HIDDEN, LAYERS = 4, 2, 32, 2
WORDS = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "ab", "cd"]
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        vocab_size=len(WORDS),
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def write_gguf(model: LlamaForCausalLM, file: Path) -> None:
    """As llama.cpp's converter writes a Llama: rows of queries and keys in its rotary order."""
    config = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    writer.add_tensor("output.weight", weights["lm_head.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs, name in NAMES.items():
            weight = weights[f"model.layers.{layer}.{theirs}.weight"]
            if name in ("attn_q", "attn_k"):
                heads = HEADS if name == "attn_q" else KV_HEADS
                shape = (heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
                weight = weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    write_gguf(small_model(), path)
    return path


def test_a_gguf_file_is_the_model_it_was_made_of(file: Path) -> None:
    model = small_model()
    target = Target.from_pretrained(str(file))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, target.model.state_dict()[name]), name
    assert target.dtype == torch.float32
    assert target.eos_token_ids == (2,)
    assert target.tokenizer is not None
    assert target.encode_chat([{"role": "user", "content": "abcab"}])
    out = adaeagle.generate(target, None, "vanilla", [1, 5, 9], max_new_tokens=8)
    assert (
        out.token_ids
        == adaeagle.generate(Target(model), None, "vanilla", [1, 5, 9], max_new_tokens=8).token_ids
    )


def test_the_loaded_model_can_be_cast_and_saved(file: Path, tmp_path: Path) -> None:
    target = Target.from_pretrained(str(file), dtype="bfloat16", device="cpu")
    assert target.dtype == torch.bfloat16
    model: Any = target.model
    model.float().save_pretrained(tmp_path)
    again = Target.from_pretrained(str(tmp_path))
    for name, weight in target.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def _refused(capsys: pytest.CaptureFixture[str], name: str) -> str:
    """The one line that `generate --target NAME` ends with."""
    assert main(["generate", "--target", name, "--policy", "vanilla", "--prompt", "hello"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_wrong_files_end_with_one_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK\x03\x04 something else")
    assert "must be a GGUF file" in _refused(capsys, str(other))
    content = file.read_bytes()
    for length in (4, 200, len(content) // 2, len(content) - 1):
        cut = tmp_path / f"cut{length}.gguf"
        cut.write_bytes(content[:length])
        assert "must be a whole GGUF file" in _refused(capsys, str(cut)), length
    assert "there is no file" in _refused(capsys, str(tmp_path / "none.gguf"))


def test_the_missing_extra_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec

    def without(name: str, *arguments: Any) -> Any:
        return None if name == "gguf" else found(name, *arguments)

    monkeypatch.setattr(ours, "find_spec", without)
    assert "pip install 'adaeagle[gguf]'" in _refused(capsys, str(file))
