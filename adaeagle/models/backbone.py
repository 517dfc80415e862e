"""A model's body: embeddings, layers and last norm, without what lies around them.

Llama's kin are nothing but embeddings, layers that are all called alike, a rotary table and a norm.
There the layers are called one after another, and those of Llama itself are computed from their
weights, see `adaeagle.models.llama`. What `transformers` does besides (settings merged with the
config, masks, capture of outputs, a rotary table made anew) takes as long as a layer or two, at
every draft forward. Whether a body is of that form is told by trial: it must give the same bits.
Any other is called as it is.

Shapes: T texts, R rows of a forward, D hidden size, S slots of the cache, H head dimension.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from adaeagle.models.kernels import Mode
from adaeagle.models.kv_cache import KVCache, LayerShape, additive, causal_mask
from adaeagle.models.llama import LlamaLayers

log = logging.getLogger(__name__)

LAST = -1
"""The last layer's features, after the final norm, among the hidden states of `transformers`."""

PARTS = ("embed_tokens", "layers", "rotary_emb", "norm")
FIXED_ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary tables that do not depend on how long the text is."""


Form = Literal["weights", "layers", "whole"]
"""What a forward calls: layers' weights, layers one after another, or the body as it is."""


@dataclass(frozen=True, slots=True)
class Features:
    """What one forward gives for each of its rows."""

    last: Tensor  # [T, R, D] of the last layer, after its norm: the output head's input
    chosen: Tensor  # [T, R, C*D] of the C layers asked for, side by side


class Backbone(nn.Module):
    """A causal LM's body.

    Args:
        model: in evaluation mode.
        layers: each layer's cache.
        device: where features go.
    """

    def __init__(
        self, model: PreTrainedModel, layers: list[LayerShape], device: torch.device
    ) -> None:
        super().__init__()
        self._whole: Any = model.base_model
        self._device = device
        self._rotary = RotaryTable(getattr(self._whole, "rotary_emb", None))
        self._llama: LlamaLayers | None = None
        self.form: Form = self._try(layers)
        """What is called where a cache is filled, unless somebody else has a say in it."""
        log.debug("%s is run by its %s", type(self._whole).__name__, self.form)

    def pack(self, mode: Mode) -> None:
        """Chooses kernels, where the layers are computed from their weights."""
        if self.form == "weights" and self._llama is not None:
            self._llama.pack(mode)

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        layers: tuple[int, ...],
        used: Tensor | None = None,
    ) -> Features:
        """See `Target.forward`."""
        form = self.form
        if cache is None or form == "whole" or self._is_hooked():
            return self._run_whole(token_ids, position_ids, mask, cache, layers)
        if form == "weights" and self._llama is not None and not self._llama.are_untouched():
            form = "layers"
        return self._run_parts(form, token_ids, position_ids, mask, cache, layers, used)

    def _run_parts(
        self,
        form: Form,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        layers: tuple[int, ...],
        used: Tensor | None = None,
    ) -> Features:
        """Embeddings, layers by their weights or one after another, and the norm."""
        hidden = self._whole.embed_tokens(token_ids)
        num_rows, num_before = token_ids.shape[1], cache.length
        if mask is None and num_rows > 1 and (num_before > 0 or not self._makes_masks):
            allowed = causal_mask(num_rows, num_before + num_rows, hidden.device)
            mask = additive(allowed, hidden.dtype)[None, None]
        rotary = self._rotary(hidden, position_ids, cache.capacity)
        states: dict[int, Tensor] = {}
        if form == "weights":
            assert self._llama is not None
            hidden, states = self._llama(hidden, mask, cache, rotary, layers, used)
        else:
            for number, layer in enumerate(self._whole.layers):
                if number in layers:
                    states[number] = hidden
                hidden = layer(
                    hidden,
                    attention_mask=mask,
                    position_ids=position_ids,
                    past_key_values=cache,
                    use_cache=True,
                    position_embeddings=rotary,
                )
        states[LAST] = self._whole.norm(hidden)
        return self._gather(states, layers)

    def _run_whole(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
        layers: tuple[int, ...],
    ) -> Features:
        inner = [layer for layer in layers if layer != LAST]
        output = self._whole(
            input_ids=token_ids,
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            # A list keeps those alone; releases that know only a flag read it as True.
            output_hidden_states=bool(inner) and (inner if self._counts_embeddings else True),
        )
        states = {layer: output.hidden_states[layer] for layer in inner}
        states[LAST] = output.last_hidden_state
        return self._gather(states, layers)

    def _gather(self, states: dict[int, Tensor], layers: tuple[int, ...]) -> Features:
        last = states[LAST].to(self._device)
        if set(layers) <= {LAST}:
            return Features(last, last if layers else last[..., :0])
        return Features(
            last, torch.cat([states[layer].to(self._device) for layer in layers], dim=-1)
        )

    def _is_hooked(self) -> bool:
        """Whether somebody else has a say in the body as a whole."""
        whole = self._whole
        return bool(whole._forward_hooks or whole._forward_pre_hooks or "forward" in whole.__dict__)

    @property
    def _makes_masks(self) -> bool:
        """Whether attention is causal by itself where nothing lies before a forward's rows."""
        return bool(self._whole.config._attn_implementation == "sdpa")

    @cached_property
    def _counts_embeddings(self) -> bool:
        """Whether a list of hidden states counts them from the embeddings on; 5.17's does not."""
        token_ids = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        with torch.no_grad():
            every, some = (
                self._whole(input_ids=token_ids, output_hidden_states=wanted).hidden_states
                for wanted in (True, [0])
            )
        return len(every) == len(some)

    @torch.no_grad()
    def _try(self, layers: list[LayerShape]) -> Form:
        """The first form that gives the same bits as the whole."""
        if not all(hasattr(self._whole, part) for part in PARTS) or self._is_hooked():
            return "whole"
        try:
            self._llama = LlamaLayers(self._whole.layers)
        except (AttributeError, LookupError, RuntimeError, TypeError) as error:
            log.debug("%s has other layers than Llama's: %s", type(self._whole).__name__, error)
        else:
            if self._llama.are_untouched() and self._is_same(
                layers, partial(self._run_parts, "weights")
            ):
                return "weights"
        run_layers = partial(self._run_parts, "layers")
        return "layers" if self._is_same(layers, run_layers) else "whole"

    def _is_same(self, layers: list[LayerShape], run: Callable[..., Features]) -> bool:
        """Whether `run` gives the same bits as the whole: of a prompt, and then of a step and of a
        masked tree."""
        device = self._whole.embed_tokens.weight.device
        dtype = layers[0].dtype
        token_ids = torch.arange(1, 5, device=device).unsqueeze(0)
        positions = torch.arange(4, device=device).unsqueeze(0)
        mask = torch.zeros(1, 1, 2, 4 + 2, dtype=dtype, device=device)
        mask[..., 0, -1] = mask[..., 1, -2] = torch.finfo(dtype).min  # two children of one token
        step = (token_ids[:, :1], positions[:, :1] + 4, None)
        tree = (token_ids[:, 1:3], torch.full_like(token_ids[:, :2], 4), mask)
        inner = (0, len(layers) // 2, LAST)
        for rows, places, allowed in (step, tree):
            found = []
            for side in (self._run_whole, run):
                cache = KVCache(layers, 8)
                try:
                    prompt = side(token_ids, positions, None, cache, inner).chosen
                    after = side(rows, places, allowed, cache, inner).chosen
                    found.append(torch.cat((prompt, after), dim=1))
                except torch.OutOfMemoryError:
                    raise
                except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                    log.debug("%s is run as it is: %s", type(self._whole).__name__, error)
                    return False
            if not torch.equal(*found):
                return False
        return True


class RotaryTable:
    """Cosines and sines of positions, made once where the model makes them at every forward.

    Args:
        rotary: the model's own module; what it says of a position is kept.
    """

    def __init__(self, rotary: Any) -> None:
        self._rotary = rotary
        self._is_fixed = getattr(rotary, "rope_type", None) in FIXED_ROPES
        self._cos, self._sin = torch.empty(0, 0), torch.empty(0, 0)  # [S, H]

    def __call__(self, hidden: Tensor, positions: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """Of positions [1, R] below `capacity`, each [1, R, H] in the dtype of `hidden`."""
        if not self._is_fixed:
            cos, sin = self._rotary(hidden, position_ids=positions)
            return cos, sin
        cos = self._cos
        if len(cos) < capacity or cos.dtype != hidden.dtype or cos.device != hidden.device:
            self._make(hidden, capacity)
        return F.embedding(positions, self._cos), F.embedding(positions, self._sin)

    def _make(self, hidden: Tensor, capacity: int) -> None:
        # Not of inference mode, so that gradients may be asked for elsewhere.
        with torch.inference_mode(False), torch.no_grad():
            every = torch.arange(capacity, device=hidden.device).unsqueeze(0)
            like = torch.empty(0, dtype=hidden.dtype, device=hidden.device)
            cos, sin = self._rotary(like, position_ids=every)
            self._cos, self._sin = cos[0], sin[0]
