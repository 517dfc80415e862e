"""A small causal language model of the target's vocabulary, and the streams it is trained on."""

import copy
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from adaeagle.data.conversations import Record
from adaeagle.models.target import Target
from predictors.draft_models.packed_tokens import write_stream

HELD_OUT_EVERY = 20


def draft_lm(target: Target, num_layers: int) -> PreTrainedModel:
    """An untrained model like the target, with fewer layers."""
    if not 1 <= num_layers <= target.config.num_hidden_layers:
        raise ValueError(
            f"num_layers must be in 1..{target.config.num_hidden_layers}, got {num_layers}"
        )
    config = copy.deepcopy(target.config)
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]
    config.dtype = torch.float32  # of the weights that are trained
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    assert isinstance(model, PreTrainedModel)
    return model


def own_documents(shards: Sequence[Path]) -> Iterator[list[int]]:
    """Prompt and answer of every text that the target wrote."""
    for shard in shards:
        tensors = load_file(shard)
        lengths = (tensors["prompt_lengths"] + tensors["answer_lengths"]).tolist()
        for document in torch.split(tensors["token_ids"], lengths):
            yield document.tolist()


def record_documents(target: Target, records: Sequence[Record]) -> Iterator[list[int]]:
    """Records that hold answers or plain text, as the target's tokenizer writes them."""
    tokenizer = target.tokenizer
    assert tokenizer is not None
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    for record in records:
        if record.text:
            yield [*tokenizer(record.text)["input_ids"], *end]
        elif any(message["role"] == "assistant" for message in record.messages):
            text = tokenizer.apply_chat_template(list(record.messages), tokenize=False)
            yield list(tokenizer(str(text), add_special_tokens=False)["input_ids"])


def write_lm_streams(
    target: Target,
    records: Sequence[Record],
    shards: Sequence[Path],
    folder: Path,
    seed: int,
) -> int:
    """Writes `train.npy` and `heldout.npy`, the target's own text among the records'.

    Returns:
        Tokens for training.
    """
    documents = [*own_documents(shards), *record_documents(target, records)]
    random.Random(seed).shuffle(documents)
    if len(documents) < HELD_OUT_EVERY:
        raise ValueError(
            f"data must give at least {HELD_OUT_EVERY} texts, one of which is held out, "
            f"got {len(documents)}"
        )
    held = documents[::HELD_OUT_EVERY]
    kept = [document for i, document in enumerate(documents) if i % HELD_OUT_EVERY]
    write_stream(held, folder / "heldout.npy")
    return write_stream(kept, folder / "train.npy")
