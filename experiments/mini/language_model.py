"""Stages `target` and `draft`: two causal LMs trained on the same kind of stream."""

from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from experiments.mini.tokenizer import VOCAB_SIZE
from predictors.draft_models.causal_lm import CausalLMTraining
from predictors.draft_models.packed_tokens import PackedTokens
from predictors.training.callbacks import SkipNonFiniteSteps

WINDOW = 512
BATCH_SIZE = 8


def llama_config(tokenizer: PreTrainedTokenizerFast, num_layers: int) -> LlamaConfig:
    """Deep and thin, so that one target step costs many head steps, as in a large model.

    The draft model has the same width and fewer layers.
    """
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=num_layers,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train(
    config: LlamaConfig, stream: Path, heldout: Path, out: Path, *, max_steps: int, compiled: bool
) -> LlamaForCausalLM:
    """Trains a model from scratch, resuming from `out/last.ckpt` where an earlier run left one."""
    L.seed_everything(0, verbose=False)
    model = LlamaForCausalLM(config)
    if compiled:  # about 1.4 times faster on a CPU without bfloat16 units
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    module = CausalLMTraining(model, max_steps=max_steps)
    trainer = L.Trainer(
        max_steps=max_steps,
        gradient_clip_val=1.0,
        val_check_interval=250,
        check_val_every_n_epoch=None,
        callbacks=[
            ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=200),
            SkipNonFiniteSteps(),
            TQDMProgressBar(refresh_rate=20),
        ],
        logger=CSVLogger(out, name="log"),
        log_every_n_steps=20,
        accelerator="auto",
        devices=1,
        enable_model_summary=False,
    )
    last = out / "last.ckpt"
    trainer.fit(
        module,
        DataLoader(PackedTokens(stream, WINDOW), BATCH_SIZE, shuffle=True),
        DataLoader(_validation_windows(heldout), BATCH_SIZE),
        ckpt_path=last if last.exists() else None,
    )
    return model


@torch.inference_mode()
def heldout_loss(model: PreTrainedModel, heldout: Path) -> float:
    """Mean cross-entropy on the validation windows, in nats a token."""
    windows = _validation_windows(heldout)
    module = CausalLMTraining(model, max_steps=1)
    losses = [float(module.loss(windows[i].unsqueeze(0))) for i in range(len(windows))]
    return sum(losses) / len(losses)


def _validation_windows(heldout: Path) -> Subset[Tensor]:
    windows = PackedTokens(heldout, WINDOW)
    return Subset(windows, range(0, len(windows), 8))
