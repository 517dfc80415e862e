"""Whether a model's tree forward equals plain decoding, by trial at load.

One small branching tree is verified in one forward, and its logits are held against plain forwards
of every root-to-node path.

Shapes: R rows (the root and the nodes), V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from adaeagle.models.kv_cache import LayerShape
from adaeagle.models.output_head import OutputHead, forms
from adaeagle.models.supported import output_layer, refusal
from adaeagle.tree import DraftTree, Level

NUM_PREFIX = 5
TREE_PATHS = ((0, 2, 6), (0, 3), (1, 4), (1, 5))
"""Rows of `_probe_tree` from each child of the root to each leaf."""

ROUNDING = 4.0
"""How many times plain decoding's own rounding a tree forward may differ. In llama, qwen3, gpt_neox
and opt of 2 to 32 layers and all three dtypes it was 0.6 to 1.1; broken models were at 1e4 and more
in float32."""

MOST_ROUNDING = 0.5
"""Where plain steps and whole texts are so far apart, a model does not decode causally: 32 random
layers in bfloat16 were at 0.15, models that attend to later tokens at 1 and more."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model's first tokens tell of it."""

    layers: list[LayerShape]
    head: OutputHead
    feature_size: int


def input_device(model: PreTrainedModel) -> torch.device:
    """Where token ids go in."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    if weight.is_meta:
        raise ValueError("device_map must keep the input embedding in memory, it is offloaded")
    return weight.device


@contextmanager
def _refusing(model: PreTrainedModel) -> Iterator[None]:
    """A model whose code cannot run a tree is refused with the error it raised."""
    try:
        yield
    except (NotImplementedError, torch.OutOfMemoryError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        message = str(e).partition("\n")[0]
        raise refusal(model.config, f"a trial failed with {type(e).__name__}: {message}") from e


@torch.no_grad()
def learn(model: PreTrainedModel) -> ModelSpec:
    """Learns cache shapes and the form of the output head from a few tokens."""
    with _refusing(model):
        token_ids = _tokens(model, NUM_PREFIX).unsqueeze(0)
        cache = DynamicCache()
        trunk = model.base_model(input_ids=token_ids, past_key_values=cache, use_cache=True)
        features = trunk.last_hidden_state
        own = model(input_ids=token_ids).logits[0]
        linear = output_layer(model)
        assert linear is not None
        layers = [_layer_shape(layer) for layer in cache.layers]
        heads = list(forms(linear, model.config.get_text_config()))
        errors = [float(_errors(head(features)[0], own).max()) for head in heads]
        # Among forms that the tokens do not tell apart, the fullest: a cap may not show here.
        error, best = min(zip(errors, range(len(heads)), strict=True))
    if not error <= 64 * torch.finfo(own.dtype).eps:
        raise refusal(
            model.config, f"its logits are off its scaled, capped output head's by {error:.1e}"
        )
    return ModelSpec(layers, heads[best], int(features.shape[-1]))


def _layer_shape(layer: Any) -> LayerShape:
    keys, values = layer.keys, layer.values
    return LayerShape(
        keys.device, keys.dtype, keys.shape[1], int(keys.shape[3]), int(values.shape[3])
    )


@torch.no_grad()
def check_tree(
    model: PreTrainedModel, run_tree: Callable[[list[int], Tensor, DraftTree], Tensor]
) -> None:
    """Refuses a model whose logits on a tree differ from plain decoding's beyond rounding.

    Rounding is measured where no code of ours runs: the model's one-token steps against its forward
    of the whole text. The median over rows counts, since a router of experts may tip in one.

    Args:
        model: in evaluation mode.
        run_tree: (prompt, root [1], tree of N nodes) → logits [1 + N, V] as verification has them.

    Raises:
        NotImplementedError: with the difference that was found.
    """
    with _refusing(model):
        prefix, root, tree = _probe_tree(model)
        found = run_tree(prefix.tolist(), root, tree)
        texts = [
            torch.cat((prefix, root, tree.token_ids[0, list(path)], root))[: NUM_PREFIX + 4]
            for path in TREE_PATHS
        ]
        whole = model(input_ids=torch.stack(texts)).logits[:, NUM_PREFIX:].to(found.device)
        expected = torch.empty_like(found)
        for path, logits in zip(TREE_PATHS, whole, strict=True):
            for depth, row in enumerate((-1, *path)):
                expected[row + 1] = logits[depth]
        error = float(_errors(found, expected).median())
        rounding = float(_errors(_steps(model, texts[0]).to(found.device), whole[0]).max())
    eps = torch.finfo(found.dtype).eps
    # Quantised matrices round by their own format, whatever the dtype of the logits.
    is_quantised = getattr(model, "hf_quantizer", None) is not None
    most = MOST_ROUNDING if is_quantised else min(MOST_ROUNDING, 1e4 * eps)
    if not (rounding <= most and error <= ROUNDING * max(rounding, ROUNDING * eps)):  # nor NaN
        raise refusal(
            model.config,
            f"its logits on a tree are off by {error:.1e} of what sets tokens apart, "
            f"plain decoding's rounding by {rounding:.1e}",
        )


def _steps(model: PreTrainedModel, text: Tensor) -> Tensor:
    """Logits after each token from the root on, one plain step at a time: [T] → [T - prefix, V]."""
    output = model(input_ids=text[None, :NUM_PREFIX], use_cache=True)
    rows = []
    for token in text[NUM_PREFIX:]:
        cache = output.past_key_values
        output = model(input_ids=token.view(1, 1), past_key_values=cache, use_cache=True)
        rows.append(output.logits[0, -1])
    return torch.stack(rows)


def _errors(found: Tensor, expected: Tensor) -> Tensor:
    """How far each row is off, relative to how far rows are apart: [R, V] → float64 [R]."""
    expected = expected.double()
    apart: Tensor = (expected - expected.mean(0, keepdim=True)).norm(dim=1).mean()
    off: Tensor = (found.double() - expected).norm(dim=1)
    return off / apart.clamp(min=torch.finfo(torch.float32).tiny)


def _tokens(model: PreTrainedModel, count: int) -> Tensor:
    """Token ids far apart, [count] int64."""
    vocab_size = int(model.config.get_text_config().vocab_size)
    token_ids = torch.arange(1, count + 1) * vocab_size // (count + 2)
    return token_ids.to(input_device(model))


def _probe_tree(model: PreTrainedModel) -> tuple[Tensor, Tensor, DraftTree]:
    """A prefix, the root and a tree of seven nodes, in which slots and depths differ."""
    token_ids = _tokens(model, NUM_PREFIX + 8)
    prefix, root = token_ids[:NUM_PREFIX], token_ids[NUM_PREFIX : NUM_PREFIX + 1]
    nodes = token_ids[NUM_PREFIX + 1 :]
    tree = DraftTree.empty(1, root.device)
    for parents, rows in (([-1], nodes[:2]), ([0, 1], nodes[2:6]), ([2], nodes[6:])):
        tokens = rows.view(1, len(parents), -1)
        level = torch.tensor([parents], device=root.device)
        tree = tree.grow(Level(level, tokens, torch.zeros(tokens.shape, device=root.device)))
    return prefix, root, tree
