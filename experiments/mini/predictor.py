"""Makes the predictor that is bundled with `mini`: a trace of held-out questions, then training.

The questions are of the same sources as the bundled prompts and none of them; neither target nor
head has seen their answers. On one core beside other work recording took 55 minutes, training 3.

    python -m experiments.mini.predictor --data DATA --out OUT
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from transformers import PreTrainedTokenizerFast

from adaeagle.bundled import BUNDLED
from adaeagle.prompts import read_prompts
from experiments import tracing
from experiments.commands.models import ModelOptions
from experiments.mini import text
from experiments.train_predictor import ALL, TrainPredictorSettings, train_predictor

QUESTIONS_A_SOURCE = 48


def questions(data: Path, tokenizer: PreTrainedTokenizerFast) -> list[dict[str, object]]:
    """Held-out questions that are not among the bundled prompts, the first turn of each."""
    known = read_prompts("mini")
    ids, turns = {prompt.id for prompt in known}, {prompt.turns for prompt in known}
    return [
        {**found, "turns": found["turns"][:1]}
        for found in text.prompts(tokenizer, data, "heldout", a_source=QUESTIONS_A_SOURCE)
        if found["id"] not in ids and tuple(found["turns"]) not in turns
    ]


def make(
    data: Annotated[Path, typer.Option(help="Folder of the sources' text.")],
    out: Annotated[Path, typer.Option(help="Folder of prompts and trace.")],
) -> None:
    """Records the trace, or the rest of it, and trains the bundled predictor."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUNDLED / "mini" / "target")
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    lines = (json.dumps(found) + "\n" for found in questions(data, tokenizer))
    (out / "heldout.jsonl").write_text("".join(lines), encoding="utf-8")
    tracing.trace(
        tracing.Settings(
            out=out / "trace",
            models=ModelOptions(dtype="float32", threads=1),
            prompts=str(out / "heldout.jsonl"),
            max_new_tokens=160,
            envelope=("chain(length=16)",),
            prompts_per_shard=16,
        ),
        as_json=True,
    )
    train_predictor(
        TrainPredictorSettings(
            kind="hazard",
            trace=out / "trace",
            out=out / "hazard",
            split=ALL,
            validation_share=0.12,
            max_steps=1600,
            batch_size=256,
            learning_rate=3e-3,
            weight_decay=0.05,
            warmup_steps=160,
            patience=8,
            accelerator="cpu",
            devices=1,
        )
    )


if __name__ == "__main__":
    typer.run(make)
