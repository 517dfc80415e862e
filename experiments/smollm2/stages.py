"""The stages from the fetched model to bundled heads; each goes on where it was stopped."""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from adaeagle import EagleDrafter, Target
from adaeagle.data.prompts import read_prompts
from adaeagle.models.fetched import fetch
from experiments.mini.acceptance import TokensPerRound, tokens_per_round
from experiments.mini.export import export_head
from experiments.runs.train_head import TrainHeadSettings, train_head_on
from experiments.smollm2 import own_text
from experiments.smollm2.card import card
from experiments.smollm2.generate import answer
from experiments.smollm2.prompts import prompts

log = logging.getLogger(__name__)

POLICIES = ("chain(length=5)", "eagle2(depth=6, width=10, nodes=59)")
MAX_PROMPT_TOKENS = 560
MAX_ANSWER_TOKENS = 224


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything; the defaults are those of the bundled head.

    Args:
        generation_seconds: how long more text is generated, beside the committed; 0: none.
        head_steps: optimiser steps.
        head_batch: texts a step.
        learning_rate: at its highest.
        unroll: steps of a draft that are trained.
        draft_vocab_size: tokens the head drafts from.
        window: longest text.
        precision: Lightning's, of the training.
        prompts_a_task: measured for the card.
        max_new_tokens: of each of those.
    """

    generation_seconds: float = 0.0
    head_steps: int = 3700
    head_batch: int = 8
    learning_rate: float = 1.5e-3
    unroll: int = 2
    draft_vocab_size: int = 8192
    window: int = 768
    precision: str = "bf16-mixed"
    prompts_a_task: int = 5
    max_new_tokens: int = 96


@dataclass(frozen=True, slots=True)
class SmolLM2:
    """One making of the heads.

    Args:
        out: checkpoints, logs and everything in between.
        bundle: what travels with the package.
        data: `NAME.train.jsonl.gz` of sources, for more text; None: the committed text alone.
        tasks: JSON Lines of prompts for the card, each file a task.
        scale: how much of everything.
        target: the model; None: `smollm2`, fetched.
    """

    out: Path
    bundle: Path
    data: Path | None = None
    tasks: tuple[Path, ...] = ()
    scale: Scale = Scale()
    target: str | None = None

    def make(self) -> dict[str, Any]:
        """Runs every stage; returns what the card states."""
        if self.target is None:
            fetch("smollm2")
        target = Target.from_pretrained(self.target or "smollm2", dtype=torch.float32)
        self.make_text(target)
        self.make_head(target)
        return self.make_card(target)

    @property
    def more_text(self) -> Path:
        """The answers that were generated here."""
        return self.out / "own_text.jsonl"

    def texts(self) -> list[dict[str, Any]]:
        """The committed text, then that generated here."""
        files = [own_text.COMMITTED, self.more_text]
        return [text for file in files if file.is_file() for text in own_text.read_texts(file)]

    def make_text(self, target: Target) -> None:
        """Answers more prompts, once: a second call finds the time spent."""
        spent = self.out / "generated.json"
        if self.data is None or self.scale.generation_seconds <= 0 or spent.exists():
            return
        answered = {text["id"] for text in self.texts()}
        num_tokens = answer(
            target,
            prompts(target, self.data, answered, MAX_PROMPT_TOKENS),
            self.more_text,
            max_new_tokens=MAX_ANSWER_TOKENS,
            seconds=self.scale.generation_seconds,
        )
        spent.write_text(json.dumps({"answer_tokens": num_tokens}), encoding="utf-8")

    def make_head(self, target: Target) -> None:
        """Trains on the text, and puts the result into the bundle."""
        folder = self.out / "eagle_head"
        if not (folder / "result.json").exists():
            shards = own_text.write_shards(self.texts(), folder / "own_text")
            settings = TrainHeadSettings(
                target=target.name,
                data=own_text.COMMITTED,
                out=folder,
                max_steps=self.scale.head_steps,
                batch_size=self.scale.head_batch,
                window=self.scale.window,
                learning_rate=self.scale.learning_rate,
                warmup_steps=min(50, self.scale.head_steps // 10),
                draft_vocab_size=self.scale.draft_vocab_size,
                unroll=self.scale.unroll,
                token_weight=1.0,
                max_new_tokens=MAX_ANSWER_TOKENS,
                store_features=True,
                checkpoint_every=min(300, self.scale.head_steps),
                precision=self.scale.precision,
                devices=1,
            )
            train_head_on(target, shards, settings)
        export_head(folder / "final", target, self.bundle / "eagle_head")

    def make_card(self, target: Target) -> dict[str, Any]:
        """Measures tokens a round on `tasks`, and writes the card."""
        head = EagleDrafter.from_pretrained(str(self.bundle / "eagle_head"), target)
        trained = json.loads((self.out / "eagle_head" / "result.json").read_text("utf-8"))
        acceptance: TokensPerRound = {}
        for task in self.tasks:
            path = self.out / f"acceptance on {task.stem}.json"
            if not path.exists():
                found = tokens_per_round(
                    target,
                    {task.stem: head},
                    read_prompts(str(task))[: self.scale.prompts_a_task],
                    policies=POLICIES,
                    max_new_tokens=self.scale.max_new_tokens,
                )
                path.write_text(json.dumps(found, indent=2), encoding="utf-8")
            acceptance |= json.loads(path.read_text(encoding="utf-8"))
        report = {**trained, "scale": asdict(self.scale), "tokens_per_round": acceptance}
        (self.bundle / "README.md").write_text(card(report), encoding="utf-8")
        return report
