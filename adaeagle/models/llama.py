"""Llama's layers computed from their weights: the same operations without the modules around them.

Calls of modules, wrappers and decorators take as long as the arithmetic where a forward has few
rows, that is at every draft step and at most verifications. Here a layer is one function over the
parameters of the model's own modules. Only classes known by name are read like this, since a trial
of a few tokens would not show what begins far on, such as a temperature of attention by position;
that a release computes the same bits is told by trial, see `adaeagle.models.backbone`.

Shapes: T texts, R rows of a forward, Q of them run, D hidden size, N heads, H head dimension,
S keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from adaeagle.models.hooks import HookWatch
from adaeagle.models.kernels import Mode, Parameters, Product
from adaeagle.models.kv_cache import KVCache, Slots

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Whose layers are those of Llama; queries and keys may have a norm, and linear layers a bias."""

FILES = tuple(f"transformers.models.{family}.modeling_{family}" for family in FAMILIES)

GROUPED_ON = ("cpu",)
"""Devices whose attention reads grouped heads where they lie; `transformers` copies keys and values
for it where there is a mask. Elsewhere it is left to `transformers`."""


class LlamaLayers:
    """The layers of a body.

    Args:
        layers: the body's, of `FAMILIES`.

    Raises:
        TypeError: a module is of another class.
        AttributeError: a module lacks a part.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        self._layers = [_Layer(layer) for layer in layers]
        first: Any = layers[0]
        self._config = first.self_attn.config
        self._watch = HookWatch([layers, *_left_out(layers)])

    def are_untouched(self) -> bool:
        """Whether nobody has put a hook, another forward or another module into a layer since."""
        return self._watch.is_quiet() and self._config._attn_implementation == "sdpa"

    def pack(self, mode: Mode) -> None:
        """Chooses the kernels of every layer's products."""
        for layer in self._layers:
            layer.pack(mode)

    def __call__(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        rotary: tuple[Tensor, Tensor],
        layers: tuple[int, ...],
        used: Tensor | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Runs them on `hidden` [T, R, D].

        Args:
            hidden: the embeddings.
            mask: additive [T, 1, R, S]; None: causal, of rows with nothing before them or of one.
            cache: grows by R.
            rotary: cosines and sines, each [T, R, H].
            layers: whose inputs are wanted.
            used: [Q] int64, which of the T*R rows are no padding; None: all.

        Returns:
            [T, R, D] of the last layer, and each wanted layer's input.
        """
        places = _Places(hidden.shape[0], hidden.shape[1], used)
        cos, sin = (places.chosen(table).unsqueeze(1) for table in rotary)  # [Q, 1, H]
        # A half-rotation negates the right half's values; here it is their sines.
        sin = sin.clone()
        sin[..., : sin.shape[-1] // 2].neg_()
        states = {}
        rows = places.chosen(hidden)
        slots = cache.append(hidden.shape[1])
        for number, layer in enumerate(self._layers):
            if number in layers:
                states[number] = places.spread(rows)
            rows = layer(rows, places, mask, (cos, sin), slots[number])
        return places.spread(rows), states


class _Places(NamedTuple):
    """Which rows of texts side by side are run, Q of T*R."""

    num_texts: int
    num_rows: int
    used: Tensor | None  # [Q] int64; None: all

    def chosen(self, states: Tensor) -> Tensor:
        """[T, R, ...] → [Q, ...]."""
        rows = states.flatten(0, 1)
        return rows if self.used is None else rows[self.used]

    def spread(self, rows: Tensor) -> Tensor:
        """[Q, ...] → [T, R, ...], zeros where nothing was run."""
        if self.used is not None:
            whole = rows.new_zeros(self.num_texts * self.num_rows, *rows.shape[1:])
            rows = whole.index_copy_(0, self.used, rows)
        return rows.view(self.num_texts, self.num_rows, *rows.shape[1:])


class _Layer:
    """One layer, over the parameters of the model's own."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._attention = attention
        self._head_dim: int = attention.head_dim
        self._scaling: float = attention.scaling
        self._is_grouped: bool = attention.num_key_value_groups > 1
        self._qkv = _product(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = _product(attention.o_proj)
        self._query_norm = _norm(getattr(attention, "q_norm", None))
        self._key_norm = _norm(getattr(attention, "k_norm", None))
        self._gate_up = _product(mlp.gate_proj, mlp.up_proj)
        self._down = _product(mlp.down_proj)
        self._activation = mlp.act_fn
        self._input_norm = _norm(layer.input_layernorm)
        self._mlp_norm = _norm(layer.post_attention_layernorm)

    def __call__(
        self,
        rows: Tensor,
        places: _Places,
        mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        slots: Slots,
    ) -> Tensor:
        """[Q, D] → [Q, D]."""
        heads = (len(rows), -1, self._head_dim)
        x = self._input_norm(rows)
        query, key, value = (states.view(heads) for states in self._qkv(x))
        query, key = self._query_norm(query), self._key_norm(key)
        slots.new_keys.copy_(places.spread(_turned(key, rotary)).transpose(1, 2))
        slots.new_values.copy_(places.spread(value).transpose(1, 2))
        query = places.spread(_turned(query, rotary)).transpose(1, 2)
        mixed = self._attend(query, slots.keys, slots.values, mask)
        rows = rows + self._out(places.chosen(mixed).reshape(len(rows), -1))[0]
        gate, up = self._gate_up(self._mlp_norm(rows))
        return rows + self._down(self._activation(gate) * up)[0]

    def pack(self, mode: Mode) -> None:
        """Chooses the kernels of its products."""
        for product in (self._qkv, self._out, self._gate_up, self._down):
            product.pack(mode)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """[T, N, R, H] → [T, R, N, H]."""
        if query.device.type not in GROUPED_ON:
            mixed: Tensor = sdpa_attention_forward(
                self._attention, query, keys, values, mask, scaling=self._scaling
            )[0]
            return mixed
        if len(query) > 1 and query.shape[2] == 1:
            # The heads of a group take the place of rows, so that their keys are read once.
            return F.scaled_dot_product_attention(
                query.view(len(query), keys.shape[1], -1, self._head_dim),
                keys,
                values,
                attn_mask=mask,
                scale=self._scaling,
            ).view(len(query), 1, -1, self._head_dim)
        return F.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and query.shape[2] > 1,
            scale=self._scaling,
            enable_gqa=self._is_grouped,
        ).transpose(1, 2)


def _turned(states: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Llama's half-rotation of [Q, N, H], the left half of the sines negated."""
    cos, sin = rotary
    return (states * cos).add_(states.roll(states.shape[-1] // 2, -1).mul_(sin))


def _product(*modules: nn.Module) -> Product:
    for module in modules:
        if type(module) is not nn.Linear:
            raise TypeError(f"a projection must be a plain nn.Linear, got {type(module).__name__}")
    return Product([module._parameters for module in modules])


class _Norm:
    """Llama's norm in fewer operations.

    A mean and a sum with a scalar cost a conversion each; here the numbers are tensors.
    """

    def __init__(self, module: Any) -> None:
        self._own: Parameters = module._parameters
        weight = self._own["weight"]
        self._eps, self._width = (
            torch.tensor(float(number), device=weight.device)
            for number in (module.variance_epsilon, len(weight))
        )

    def __call__(self, rows: Tensor) -> Tensor:
        wide = rows.float()
        squares = torch.mul(wide, wide).sum(-1, keepdim=True)
        scale = torch.addcdiv(self._eps, squares, self._width).rsqrt_()
        return wide.mul(scale).to(rows.dtype).mul_(self._own["weight"])


def _norm(module: Any) -> Callable[[Tensor], Tensor]:
    """In fewer operations where that gives the same bits, else as it is; None: there is no norm."""
    if module is None:
        return _unchanged
    short = _Norm(module)
    weight = module.weight
    rows = torch.randn(16, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    return short if torch.equal(short(rows), module(rows)) else module


def _unchanged(rows: Tensor) -> Tensor:
    return rows


def _left_out(layers: nn.ModuleList) -> list[nn.Module]:
    """The modules that are not called: all but activations."""
    found = [
        module
        for layer in layers
        for name, module in layer.named_modules()
        if not name.endswith("act_fn")
    ]
    for module in found:
        if type(module) is not nn.Linear and type(module).__module__ not in FILES:
            raise TypeError(f"a layer's modules must be of {FAMILIES}, got {type(module)}")
    return found
