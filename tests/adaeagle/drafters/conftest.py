"""Targets that EAGLE-3 drafts well for, of several families, and a head made for them by hand."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from adaeagle import EagleDrafter, Target
from adaeagle.drafters.eagle3_head import Eagle3Head, Eagle3HeadConfig

VOCAB, HIDDEN, LAYERS, DRAFT_VOCAB = 96, 48, 8, 80
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 256},
    "opt": {"word_embed_proj_dim": HIDDEN, "ffn_dim": 2 * HIDDEN},
    "mistral": {"sliding_window": None},
    "gemma2": {"head_dim": HIDDEN // 4, "query_pre_attn_scalar": HIDDEN // 4},
}
OUTPUTS = ("o_proj", "out_proj", "down_proj", "fc2", "c_proj", "dense", "dense_4h_to_h")
"""What families call the layers that write into the residual stream."""


@cache
def easy_target(family: str) -> Target:
    """A target whose next token the last one decides most of the time, and sharply.

    Embeddings have mean 0 and root mean square 1, so that any kind of norm leaves them as they are;
    the layers add little to them, the last one enough to make the text vary.
    """
    torch.manual_seed(0)
    common = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2 if family != "phi3" else 4,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": 256,
    }
    config = AutoConfig.for_model(
        family,
        vocab_size=VOCAB,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **{token: None for token in ("bos_token_id", "eos_token_id", "pad_token_id")},
        **(SIZES[family] if family == "gpt2" else common | SIZES.get(family, {})),
    )
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding.sub_(embedding.mean(1, keepdim=True))
        embedding.div_(embedding.pow(2).mean(1, keepdim=True).sqrt())
        [layers] = [
            part
            for part in model.base_model.modules()
            if isinstance(part, nn.ModuleList) and len(part) == LAYERS
        ]
        for place, layer in enumerate(layers):
            share = (
                (0.05 if family in ("opt", "qwen3", "gemma2") else 0.07)
                if place == LAYERS - 1
                else 0.01
            )
            for name, part in layer.named_modules():
                if name.split(".")[-1] in OUTPUTS:
                    part.weight.mul_(share)
                elif family == "gemma2" and name.startswith("post_"):
                    part.weight.fill_(10 * share - 1)  # a norm of what is added; it scales by 1 + w
        for name, weight in model.named_parameters():
            if "wpe" in name or "embed_positions" in name:
                weight.mul_(0.02)
        model.get_output_embeddings().weight.mul_(4.0)
    return Target(model.eval(), name="easy")


def draft_ids(target: Target) -> Tensor:
    """A draft vocabulary with gaps everywhere, one of them a token that the target does say."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(0, VOCAB, (4, 7), generator=generator)
    said = target.model.generate(  # type: ignore[operator]
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=False,
        max_new_tokens=50,
        pad_token_id=0,
    )
    counts = said[:, 7:].flatten().bincount(minlength=VOCAB)
    scores = counts + torch.rand(VOCAB, generator=generator)
    scores[counts.masked_fill(counts == 0, 999).argmin()] = -1
    ids: Tensor = scores.topk(DRAFT_VOCAB).indices.sort().values
    return ids


@cache
def token_reader(family: str, has_draft_vocab: bool) -> EagleDrafter:
    """A head made by hand that knows how much of the next token the last one decides.

    Attention looks at its own place alone (constant queries and keys, whose product falls with
    distance) and exchanges the last token's embedding for the state: h + e - h.
    """
    target = easy_target(family)
    head = Eagle3Head(
        Eagle3HeadConfig(
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=VOCAB,
            rms_norm_eps=1e-5,
            hidden_act="silu",
            rope_theta=10000.0,
            qkv_bias=True,
            head_dim=HIDDEN // 4,
            draft_vocab_size=DRAFT_VOCAB if has_draft_vocab else VOCAB,
            target_hidden_size=HIDDEN,
        )
    )
    one, zero = torch.eye(HIDDEN), torch.zeros(HIDDEN, HIDDEN)
    attention = head.midlayer.self_attn
    ids = torch.arange(VOCAB)
    with torch.no_grad():
        scale = target.embed(ids).pow(2).mean().sqrt()  # Gemma's embeddings are longer
        head.fc.weight.copy_(torch.cat((one / scale, zero, zero), dim=1))
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.zero_()
            projection.bias.fill_(10.0)
        attention.v_proj.weight.copy_(torch.cat((one, -one), dim=1))
        attention.v_proj.bias.zero_()
        attention.o_proj.weight.copy_(one)
        head.midlayer.mlp.down_proj.weight.zero_()
        if has_draft_vocab:
            ids = draft_ids(target)
            head.set_vocab(ids)
        assert head.lm_head is not None
        head.lm_head.weight.copy_(target.model.get_output_embeddings().weight[ids])  # type: ignore[no-untyped-call]
    return EagleDrafter(head, target)


@pytest.fixture(scope="session")
def make_reader() -> Callable[[str, bool], EagleDrafter]:
    """`token_reader`: (family, whether its draft vocabulary is smaller), on its `easy_target`."""
    return token_reader
