"""Makes the predictors that are bundled with `mini`: traces of held-out questions, then training.

The questions are of the same sources as the bundled prompts and none of them; neither target nor
head has seen their answers. On one core beside other work recording took two hours, training one.
All learn from all questions there are, but for `c2t`, whose trees are of up to 48 of each source.
Sizes and steps were chosen by the loss on questions left out, and by tokens a second in a replay of
the `tune` prompts, time to decide included: smaller where that made no difference.

    python -m experiments.mini.predictor --data DATA --out OUT
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import PreTrainedTokenizerFast

from adaeagle.data.bundled import BUNDLED
from adaeagle.data.prompts import read_prompts
from experiments.mini import text
from experiments.runs import trace as tracing
from experiments.runs.models import ModelOptions
from experiments.runs.train_predictor import ALL, TrainPredictorSettings, train_predictor

QUESTIONS_A_SOURCE = {"heldout": 400, "heldout-trees": 48}
"""Files of questions, and how many of a source each has, where there are so many."""

CHAINS, TREES = "trace", "trace-trees"
"""Folders of the traces: chains of all questions, EAGLE-2's beam of some."""


USUAL = {
    "trace": CHAINS,
    "split": ALL,
    "validation_share": 0.12,
    "max_steps": 9600,
    "batch_size": 256,
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "warmup_steps": 160,
    "patience": 8,
    "checkpoint_every": 400,
    "accelerator": "cpu",
    "devices": 1,
}
# A table of all tokens is most of a length predictor: at its usual size, 1.2 MB.
RECIPES: dict[str, dict[str, Any]] = {
    "hazard": {
        "kind": "hazard(hidden_size=48, dropout=0.1)",
        "max_steps": 1600,
        "batch_size": 512,
        "learning_rate": 2e-2,
        "weight_decay": 0.01,
        "patience": 16,
        "checkpoint_every": 100,
    },
    "ldlp": {"kind": "ldlp(hidden_size=64)"},
    "ldlp_dp": {
        "kind": "ldlp(hidden_size=64, labels='dp')",
        "cost": BUNDLED / "mini" / "cost.json",
    },
    "specdec_pp": {
        "kind": "specdec_pp(hidden_size=32, num_blocks=0, rejected_weight=1.0)",
        "learning_rate": 5e-3,
    },
    "disco": {"kind": "disco(hidden_size=16)", "learning_rate": 5e-3},
    "c2t": {"kind": "c2t", "trace": TREES, "max_steps": 4800},
}
"""What differs from `USUAL` in the making of each."""


def questions(
    data: Path, tokenizer: PreTrainedTokenizerFast, a_source: int
) -> list[dict[str, object]]:
    """Held-out questions that are not among the bundled prompts, the first turn of each."""
    known = read_prompts("mini")
    ids, turns = {prompt.id for prompt in known}, {prompt.turns for prompt in known}
    return [
        {**found, "turns": found["turns"][:1]}
        for found in text.prompts(tokenizer, data, "heldout", a_source=a_source)
        if found["id"] not in ids and tuple(found["turns"]) not in turns
    ]


def record(out: Path) -> None:
    """Records the traces, or the rest of them."""
    models = ModelOptions(dtype="float32", threads=1)
    for folder, prompts, tokens, envelope, shard in (
        (CHAINS, "heldout", 160, "chain(length=16)", 16),
        (TREES, "heldout-trees", 96, "eagle2(depth=8, width=10)", 4),
    ):
        settings = tracing.TraceSettings(
            out=out / folder,
            models=models,
            prompts=str(out / f"{prompts}.jsonl"),
            max_new_tokens=tokens,
            envelope=(envelope,),
            prompts_per_shard=shard,
        )
        tracing.trace(settings)


def train(name: str, traces: Path, out: Path) -> dict[str, Any]:
    """Trains one of `RECIPES` into the folder of its name in `out`; returns its result."""
    settings = {**USUAL, **RECIPES[name]}
    settings["trace"] = traces / settings["trace"]
    return train_predictor(TrainPredictorSettings(out=out / name, **settings))


def make(
    data: Annotated[Path, typer.Option(help="Folder of the sources' text.")],
    out: Annotated[Path, typer.Option(help="Folder of prompts, traces and predictors.")],
) -> None:
    """Records the traces, or the rest of them, and trains the bundled predictors."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUNDLED / "mini" / "target")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    for name, a_source in QUESTIONS_A_SOURCE.items():
        lines = (json.dumps(found) + "\n" for found in questions(data, tokenizer, a_source))
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    record(out)
    for name in RECIPES:
        train(name, out, out)


if __name__ == "__main__":
    typer.run(make)
