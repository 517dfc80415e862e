"""The models and prompts of the engine benchmark: `mini`, or a random target of 16 layers.

The random target's layers add little to the embedding they start from, so that cheap draft models
are right at about two positions of three: its own first two layers, and an EAGLE head that hands
the token's embedding through. Rounds then accept paths and move caches as they do with trained
models.
"""

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.data.prompts import Conversation, read_prompts, spread
from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from experiments.runs.random_models import random_prompts

SIZES = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}
DEVIATION = 0.05
LAYER_SCALE = 0.1  # of what a layer adds to its input
NUM_DRAFT_LAYERS = 2
NUM_PROMPTS = 8


@dataclass(frozen=True, slots=True)
class Models:
    """A target, a draft model of each kind, and prompts as token ids."""

    target: Target
    head: EagleDrafter
    lm: ModelDrafter
    prompts: list[list[int]]

    def context_of(self, num_tokens: int) -> list[int]:
        """A prompt of this many tokens: the others again and again."""
        every = [token for prompt in self.prompts for token in prompt]
        return list(islice(cycle(every), num_tokens))


def load(name: str, dtype: torch.dtype, device: str) -> Models:
    """`random` or a bundled model, whose texts end at their limit alone."""
    if name == "random":
        models = _random(dtype, device)
    else:
        target = Target.from_pretrained(name, dtype=dtype, device=device)
        prompts = spread(read_prompts(name), NUM_PROMPTS)
        models = Models(
            target,
            EagleDrafter.from_pretrained(name, target),
            ModelDrafter.from_pretrained(name, target),
            [Conversation(target, prompt).next_ids() or [] for prompt in prompts],
        )
    for side in (models.target, models.lm.model):
        side.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return models


def _random(dtype: torch.dtype, device: str) -> Models:
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES,  # type: ignore[arg-type]
        initializer_range=DEVIATION,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_()
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(LAYER_SCALE)
            layer.mlp.down_proj.weight.mul_(LAYER_SCALE)
    first = LlamaForCausalLM(
        LlamaConfig(**{**config.to_dict(), "num_hidden_layers": NUM_DRAFT_LAYERS})
    )
    first.load_state_dict(model.state_dict(), strict=False)
    head = _echo(config)
    target = Target(_on(model, device, dtype), name="random, 16 layers of width 256")
    lm = ModelDrafter(Target(_on(first, device, dtype)), target)
    prompts = [list(prompt.token_ids) for prompt in random_prompts(target, NUM_PROMPTS, seed=0)]
    return Models(target, EagleDrafter(head, target), lm, prompts)


def _on(model: nn.Module, device: str, dtype: torch.dtype) -> Any:
    return model.to(device, dtype)


def _echo(config: LlamaConfig) -> EagleHead:
    """A head that takes the token's embedding for the feature it leads to."""
    raw = {**config.to_dict(), "num_hidden_layers": 1, "bias": False}
    head = EagleHead(EagleHeadConfig.from_json(raw))
    with torch.no_grad():
        embedding, feature = head.fc.weight.chunk(2, dim=1)
        embedding.copy_(torch.eye(*embedding.shape))
        feature.zero_()
        for layer in head.layers:
            for last in (layer.self_attn.o_proj, layer.mlp.down_proj):  # type: ignore[union-attr]
                last.weight.zero_()  # type: ignore[union-attr,operator]
    return head
