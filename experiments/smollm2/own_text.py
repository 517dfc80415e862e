"""SmolLM2's own text as it is committed, and as `train_head` reads it.

A line of the compressed JSON Lines: `id` of the prompt in its source, `prompt_ids` as the chat
template writes them, `answer_ids` of temperature 0, with the end token where the model said it.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from predictors.draft_models.self_generation import SelfGenerated, write_texts

COMMITTED = Path(__file__).parent / "data" / "own_text.jsonl.gz"
TEXTS_A_SHARD = 256


def read_texts(file: Path) -> Iterator[dict[str, Any]]:
    """The texts of a `.jsonl.gz` or `.jsonl` file; a last line that was cut off is left out."""
    opener: Any = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def write_shards(
    texts: list[dict[str, Any]], folder: Path, shard_size: int = TEXTS_A_SHARD
) -> list[Path]:
    """Shards of `texts` in their order; those that are there already are kept.

    A last shard that is not full is written too, and again when there are more texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for first in range(0, len(texts), shard_size):
        chosen = texts[first : first + shard_size]
        path = folder / f"own_text-{first // shard_size:05d}.safetensors"
        if not path.exists() or len(chosen) < shard_size:
            write_texts(
                [
                    SelfGenerated(first + place, text["prompt_ids"], text["answer_ids"])
                    for place, text in enumerate(chosen)
                ],
                path,
            )
        paths.append(path)
    return paths
