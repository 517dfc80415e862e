"""Prompts that SmolLM2 answers for training: first user turns, mixed by shares of kinds of task.

Files are `NAME.train.jsonl.gz` with `messages`, as for `experiments.mini`; none of the prompts that
policies are compared on are among them.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaeagle.models.target import Target
from experiments.smollm2.generate import Prompt

SHARES = {
    "gsm8k": 5,
    "gpteacher_codegen": 5,
    "gpteacher_roleplay": 4,
    "flan_cot": 5,
    "self_instruct_seeds": 2,
    "mbxp_code": 4,
    "t0_reading": 4,
    "llm_adapters_math": 2,
    "nl2bash": 2,
    "scitldr": 3,
    "squality_summaries": 1,
    "qmsum": 2,
    "mathqa_python": 2,
    "synthetic_persona_chat": 2,
    "topical_chat": 3,
    "sgd_dialogues": 2,
    "gpteacher_toolformer": 1,
    "python_puzzles": 1,
}
"""Prompts of each source a turn; a source that has no more is left out."""


def prompts(
    target: Target, data: Path, answered: set[str], max_prompt_tokens: int
) -> Iterator[Prompt]:
    """Ids and tokens of prompts that are not `answered` and not too long, sources taking turns."""
    sources: dict[str, Iterator[dict[str, Any]]] = {
        name: _records(data / f"{name}.train.jsonl.gz")
        for name in SHARES
        if (data / f"{name}.train.jsonl.gz").is_file()
    }
    if not sources:
        raise FileNotFoundError(f"{data} must hold files such as gsm8k.train.jsonl.gz, got none")
    while sources:
        for name, records in list(sources.items()):
            taken = 0
            while taken < SHARES[name]:
                record = next(records, None)
                if record is None:
                    del sources[name]
                    break
                if record["id"] in answered or "messages" not in record:
                    continue
                token_ids = target.encode_chat(record["messages"][:1])
                if len(token_ids) <= max_prompt_tokens:
                    taken += 1
                    yield record["id"], token_ids


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)
