"""The stages from text to bundled weights; each is left out where its result is there already."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.data.prompts import read_prompts
from experiments.mini import card, language_model, text
from experiments.mini.acceptance import TokensPerRound, tokens_per_round
from experiments.mini.export import export_head, export_model
from experiments.mini.tokenizer import train_tokenizer
from experiments.runs.train_head import TrainHeadSettings, train_head
from predictors.draft_models.lm import own_documents

log = logging.getLogger(__name__)

OWN_TEXT_REPEATS = 4
"""How often the draft model reads the target's own text, a small part of its stream otherwise."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything; the defaults made the bundled weights."""

    chars_a_source: int = 600_000  # for the tokenizer
    stream_tokens: int = 9_000_000
    target_layers: int = 12
    target_steps: int = 700
    questions_a_source: int = 96
    max_new_tokens: int = 192
    head_steps: int = 1600
    head_batch: int = 16
    head_learning_rate: float = 2e-3
    draft_tokens: int = 1_000_000
    draft_steps: int = 300
    prompts_a_source: int = 8
    compiled: bool = True


@dataclass(frozen=True, slots=True)
class Mini:
    """One making of the model.

    Args:
        data: `NAME.train.jsonl.gz` and `NAME.heldout.jsonl.gz` of every source.
        out: checkpoints, logs and everything in between.
        bundle: what travels with the package.
        scale: how much of everything.
    """

    data: Path
    out: Path
    bundle: Path
    scale: Scale = Scale()

    def make(self) -> dict[str, Any]:
        """Runs every stage; returns what the card states."""
        self.make_tokenizer()
        self.make_streams()
        self.make_target()
        self.make_prompts()
        self.make_head()
        self.make_draft()
        return self.make_card()

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.out / "tokenizer")
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        return tokenizer

    def make_tokenizer(self) -> None:
        if not (self.out / "tokenizer").exists():
            texts = text.sample_texts(self.data, self.scale.chars_a_source)
            train_tokenizer(texts).save_pretrained(self.out / "tokenizer")

    def make_streams(self) -> None:
        if not (self.out / "heldout.npy").exists():
            passes = text.write_mixture(
                self.tokenizer, self.data, self.out / "stream.npy", self.scale.stream_tokens, seed=0
            )
            log.info("passes over each source: %s", passes)
            text.write_heldout(self.tokenizer, self.data, self.out / "heldout.npy")

    def make_target(self) -> None:
        final = self.out / "target" / "final"
        if not final.exists():
            config = language_model.llama_config(self.tokenizer, self.scale.target_layers)
            self._train(config, "stream.npy", "target", self.scale.target_steps)
        if not (self.bundle / "target" / "model.safetensors").exists():
            export_model(final, self.tokenizer, self.bundle / "target")

    def _train(self, config: Any, stream: str, name: str, max_steps: int) -> None:
        model: LlamaForCausalLM = language_model.train(
            config,
            self.out / stream,
            self.out / "heldout.npy",
            self.out / name,
            max_steps=max_steps,
            compiled=self.scale.compiled,
        )
        model.save_pretrained(self.out / name / "final")

    def make_prompts(self) -> None:
        """Questions of the training split to train the head on, of the held-out to bundle."""
        wanted = (
            ("train", self.scale.questions_a_source, self.out / "questions.jsonl"),
            ("heldout", self.scale.prompts_a_source, self.bundle / "prompts.jsonl"),
        )
        for split, a_source, path in wanted:
            found = text.prompts(self.tokenizer, self.data, split, a_source=a_source)
            lines = (json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in found)
            path.write_text("".join(lines), encoding="utf-8")

    def make_head(self) -> None:
        """Trained against the bundled target, whose weights are rounded to bfloat16."""
        folder = self.out / "eagle_head"
        if not (folder / "result.json").exists():
            train_head(
                TrainHeadSettings(
                    target=str(self.bundle / "target"),
                    data=self.out / "questions.jsonl",
                    out=folder,
                    max_steps=self.scale.head_steps,
                    batch_size=self.scale.head_batch,
                    window=512,
                    learning_rate=self.scale.head_learning_rate,
                    warmup_steps=self.scale.head_steps // 40,
                    max_new_tokens=self.scale.max_new_tokens,
                    store_features=True,
                    checkpoint_every=min(500, self.scale.head_steps),
                    devices=1,
                )
            )
        target = Target.from_pretrained(str(self.bundle / "target"))
        export_head(folder / "final", target, self.bundle / "eagle_head")

    def make_draft(self) -> None:
        final = self.out / "draft_lm" / "final"
        if not final.exists():
            mixed = np.load(self.out / "stream.npy", mmap_mode="r")[: self.scale.draft_tokens]
            shards = sorted((self.out / "eagle_head" / "own_text").glob("own_text-*.safetensors"))
            own = [np.asarray(document, np.uint32) for document in own_documents(shards)]
            np.save(self.out / "draft.npy", np.concatenate([mixed, *own * OWN_TEXT_REPEATS]))
            config = language_model.llama_config(self.tokenizer, num_layers=2)
            self._train(config, "draft.npy", "draft_lm", self.scale.draft_steps)
        export_model(final, self.tokenizer, self.bundle / "draft_lm")

    def make_card(self) -> dict[str, Any]:
        target = Target.from_pretrained(str(self.bundle / "target"))
        head = EagleDrafter.from_pretrained(str(self.bundle / "eagle_head"), target)
        draft = ModelDrafter.from_pretrained(str(self.bundle / "draft_lm"), target)
        heldout = self.out / "heldout.npy"
        prompts = read_prompts(str(self.bundle / "prompts.jsonl"))
        max_new_tokens = min(128, self.scale.max_new_tokens)
        acceptance: TokensPerRound = {}
        for drafter, name in ((head, "eagle head"), (draft, "draft model")):
            path = self.out / f"acceptance of the {name}.json"
            if not path.exists():
                found = tokens_per_round(
                    target, {name: drafter}, prompts, max_new_tokens=max_new_tokens
                )
                path.write_text(json.dumps(found, indent=2), encoding="utf-8")
            acceptance |= json.loads(path.read_text(encoding="utf-8"))
        trained = json.loads((self.out / "eagle_head" / "result.json").read_text(encoding="utf-8"))
        report = {
            "target_parameters": target.model.num_parameters(),
            "stream_tokens": self.scale.stream_tokens,
            "target_steps": self.scale.target_steps,
            "target_loss": language_model.heldout_loss(target.model, heldout),
            "own_tokens": trained["num_tokens"],
            "head_steps": trained["steps"],
            "head_agreement": trained["val_agreement"],
            "head_accepted": trained["val_accepted_5"],
            "draft_steps": self.scale.draft_steps,
            "draft_loss": language_model.heldout_loss(draft.model.model, heldout),
            "max_new_tokens": max_new_tokens,
        }
        content = card.card(report, acceptance)
        (self.bundle / "README.md").write_text(content, encoding="utf-8")
        (self.bundle / "ATTRIBUTION.md").write_text(card.attribution(), encoding="utf-8")
        return {**report, "tokens_per_round": acceptance}
