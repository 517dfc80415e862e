"""Answers of SmolLM2 to prompts, many side by side: as fast as one core makes them.

A prompt takes the row of one that has ended, so that no row waits for others. Products are those of
`adaeagle.models.kernels`. Batched sums differ from those of one text, so near-ties may fall
otherwise than plain decoding's: text to train on, not to compare with.

Shapes: B rows side by side, T tokens of a prompt, S slots a row, D hidden size, N heads, H head
dimension.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.models.kernels import Product
from adaeagle.models.target import Target

Prompt = tuple[str, list[int]]
"""Its id, and its token ids."""


class Batch:
    """Rows of a Llama that are decoded side by side.

    Args:
        target: a Llama without biases, in float32.
        num_rows: B.
        num_slots: S, most tokens of a row.
    """

    def __init__(self, target: Target, num_rows: int, num_slots: int) -> None:
        config = target.config
        model: Any = target.model.base_model
        self._model = model
        self._heads, self._groups = config.num_attention_heads, config.num_key_value_heads
        self._dim = config.head_dim
        self._eps = config.rms_norm_eps
        shape = (config.num_hidden_layers, num_rows, self._groups, num_slots, self._dim)
        self._keys, self._values = torch.zeros(shape), torch.zeros(shape)
        positions = torch.arange(num_slots).unsqueeze(0)
        cos, sin = model.rotary_emb(torch.zeros(1), positions)
        self._cos, self._sin = cos[0], sin[0]
        self._products = [_products(layer) for layer in model.layers]
        self._head = target.logits
        self.lengths = torch.zeros(num_rows, dtype=torch.int64)

    @torch.inference_mode()
    def begin(self, row: int, token_ids: list[int]) -> int:
        """Puts a prompt into a row; its answer's first token."""
        size = len(token_ids)
        x = self._model.embed_tokens(torch.tensor(token_ids))
        cos, sin = self._cos[:size, None], self._sin[:size, None]
        for number, (layer, products) in enumerate(
            zip(self._model.layers, self._products, strict=True)
        ):
            query, key, value = self._project(layer, products, x, cos, sin)
            self._keys[number, row, :, :size] = key.transpose(0, 1)
            self._values[number, row, :, :size] = value.transpose(0, 1)
            mixed = F.scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                key.transpose(0, 1)[None],
                value.transpose(0, 1)[None],
                is_causal=True,
                enable_gqa=True,
            )[0].transpose(0, 1)
            x = self._finish(layer, products, x, mixed.reshape(size, -1))
        self.lengths[row] = size
        return int(self._head(self._model.norm(x[-1:])).argmax())

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """The token after each row's latest one: [B] → [B]; idle rows mean nothing."""
        num_rows, longest = len(tokens), int(self.lengths.max()) + 1
        x = self._model.embed_tokens(tokens)
        cos, sin = self._cos[self.lengths, None], self._sin[self.lengths, None]
        allowed = torch.arange(longest) <= self.lengths[:, None]
        rows = torch.arange(num_rows)
        for number, (layer, products) in enumerate(
            zip(self._model.layers, self._products, strict=True)
        ):
            query, key, value = self._project(layer, products, x, cos, sin)
            self._keys[number, rows, :, self.lengths] = key
            self._values[number, rows, :, self.lengths] = value
            # The heads of a group take the place of rows: no key is copied.
            mixed = F.scaled_dot_product_attention(
                query.view(num_rows, self._groups, -1, self._dim),
                self._keys[number, :, :, :longest],
                self._values[number, :, :, :longest],
                attn_mask=allowed[:, None, None],
            )
            x = self._finish(layer, products, x, mixed.reshape(num_rows, -1))
        self.lengths += 1
        chosen: Tensor = self._head(self._model.norm(x)).argmax(-1)
        return chosen

    def _project(
        self, layer: Any, products: tuple[Product, ...], x: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [rows, heads, H]."""
        shape = (len(x), -1, self._dim)
        query, key, value = (s.view(shape) for s in products[0](layer.input_layernorm(x)))
        return _turned(query, cos, sin), _turned(key, cos, sin), value

    def _finish(
        self, layer: Any, products: tuple[Product, ...], x: Tensor, mixed: Tensor
    ) -> Tensor:
        x = x + products[1](mixed)[0]
        gate, up = products[2](layer.post_attention_layernorm(x))
        return x + products[3](layer.mlp.act_fn(gate) * up)[0]


def _products(layer: Any) -> tuple[Product, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    groups = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    products = tuple(Product([module._parameters for module in group]) for group in groups)
    for product in products:
        product.pack("auto")
    return products


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-right, left), dim=-1) * sin


def answer(
    target: Target,
    prompts: Iterator[Prompt],
    out: Path,
    *,
    num_rows: int = 64,
    max_prompt_tokens: int = 310,
    max_new_tokens: int = 160,
    seconds: float | None = None,
) -> int:
    """Appends the answers to `out` as they end; texts that a kill cuts off are made anew.

    Args:
        target: see `Batch`.
        prompts: those not answered yet.
        out: JSON Lines, see `experiments.smollm2.own_text`.
        num_rows: prompts answered side by side.
        max_prompt_tokens: longest prompt among `prompts`.
        max_new_tokens: longest answer.
        seconds: when to stop; None: after the last prompt.

    Returns:
        the number of answer tokens.
    """
    batch = Batch(target, num_rows, max_prompt_tokens + max_new_tokens + 1)
    texts: list[dict[str, Any] | None] = [None] * num_rows
    tokens = torch.zeros(num_rows, dtype=torch.int64)
    begun, num_tokens = time.monotonic(), 0
    with out.open("a", encoding="utf-8") as file:

        def is_over(text: dict[str, Any]) -> bool:
            ids = text["answer_ids"]
            if ids[-1] not in target.eos_token_ids and len(ids) < max_new_tokens:
                return False
            file.write(json.dumps(text) + "\n")
            file.flush()
            return True

        while seconds is None or time.monotonic() - begun < seconds:
            for row in range(num_rows):
                while texts[row] is None:
                    name, ids = next(prompts, ("", []))
                    if not ids:
                        break
                    tokens[row] = batch.begin(row, ids)
                    num_tokens += 1
                    text = {"id": name, "prompt_ids": ids, "answer_ids": [int(tokens[row])]}
                    texts[row] = None if is_over(text) else text
            if not any(texts):
                break
            tokens = batch.step(tokens).clone()
            for row, token in enumerate(tokens.tolist()):
                current = texts[row]
                if current is None:
                    batch.lengths[row] = 0
                    continue
                current["answer_ids"].append(token)
                num_tokens += 1
                if is_over(current):
                    texts[row] = None
    return num_tokens
