"""From records to token streams and prompts: rendering, mixing by share, held-out questions."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from experiments.mini.sources import SOURCES, read_records
from experiments.mini.tokenizer import BOS, END
from predictors.draft_models.packed_tokens import write_stream

MAX_DOCUMENT_TOKENS = 1024


def render(record: dict[str, Any]) -> str:
    """A record as the model reads it, special tokens included."""
    if "text" in record:
        return f"{BOS}{record['text']}{END}"
    turns = "".join(f"<|{m['role']}|>{m['content']}{END}" for m in record["messages"])
    return f"{BOS}{turns}"


def sample_texts(data: Path, chars_a_source: int) -> Iterator[str]:
    """The beginning of every source, for training the tokenizer."""
    for source in SOURCES:
        seen = 0
        for record in read_records(data, source, "train"):
            text = render(record)
            seen += len(text)
            yield text
            if seen > chars_a_source:
                break


def _repeat_to(documents: list[list[int]], num_tokens: int, rng: random.Random) -> list[list[int]]:
    """Whole passes over `documents`, each in a new order, until `num_tokens` are reached."""
    chosen: list[list[int]] = []
    total = 0
    while total < num_tokens:
        for document in rng.sample(documents, len(documents)):
            chosen.append(document)
            total += len(document)
            if total >= num_tokens:
                break
    return chosen


def write_mixture(
    tokenizer: PreTrainedTokenizerFast, data: Path, path: Path, num_tokens: int, seed: int
) -> dict[str, float]:
    """Writes a stream of about `num_tokens` tokens, mixed by share; returns passes per source."""
    rng = random.Random(seed)
    documents: list[list[int]] = []
    passes = {}
    for source in SOURCES:
        texts = [render(record) for record in read_records(data, source, "train")]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        encoded = [ids[:MAX_DOCUMENT_TOKENS] for ids in encoded]
        wanted = int(source.share * num_tokens)
        documents += _repeat_to(encoded, wanted, rng)
        passes[source.name] = round(wanted / sum(map(len, encoded)), 2)
    rng.shuffle(documents)
    write_stream(documents, path)
    return passes


def write_heldout(tokenizer: PreTrainedTokenizerFast, data: Path, path: Path) -> None:
    """Writes the held-out records of every source as one stream, for validation."""
    texts = [render(r) for s in SOURCES for r in read_records(data, s, "heldout")]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    write_stream([ids[:MAX_DOCUMENT_TOKENS] for ids in encoded], path)


def user_turns(record: dict[str, Any], max_turns: int) -> list[str]:
    """The first user turns of a conversation."""
    return [m["content"] for m in record["messages"] if m["role"] == "user"][:max_turns]


def prompts(
    tokenizer: PreTrainedTokenizerFast,
    data: Path,
    split: str,
    *,
    a_source: int,
    max_prompt_tokens: int = 256,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Up to `a_source` prompts of every conversational source, in the form of Spec-Bench."""
    for source in SOURCES:
        records = list(read_records(data, source, split))
        random.Random(seed).shuffle(records)  # files are sorted by kind
        given = 0
        for record in records:
            if given == a_source or "messages" not in record:
                break
            turns = user_turns(record, source.max_turns)
            if sum(map(len, tokenizer(turns)["input_ids"])) > max_prompt_tokens:
                continue
            given += 1
            yield {
                "id": record["id"],
                "category": source.category,
                "source": source.name,
                "turns": turns,
            }
