"""Where `mini`'s text comes from: open, not share-alike sources of mixed difficulty.

The data folder holds one `NAME.train.jsonl.gz` and one `NAME.heldout.jsonl.gz` a source, each
line a record with either `messages` (a conversation) or `text` (plain prose).
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """One origin of text, and its share of the tokens the target is trained on."""

    name: str
    share: float
    category: str
    origin: str
    licence: str


SOURCES = (
    # Regular text: a drafter can run far ahead.
    Source("gpteacher_toolformer", 0.11, "tool", "teknium1/GPTeacher", "MIT"),
    Source("taskmaster4_api", 0.12, "tool", "google-research-datasets/Taskmaster", "CC BY 4.0"),
    Source("taskmaster4", 0.04, "dialogue", "google-research-datasets/Taskmaster", "CC BY 4.0"),
    Source("nl2bash", 0.07, "shell", "TellinaTool/nl2bash", "MIT"),
    Source("mbxp_code", 0.10, "code", "amazon-science/mxeval", "CC BY 4.0"),
    Source("mathqa_python", 0.04, "code", "amazon-science/mxeval", "CC BY 4.0"),
    # Irregular text: most drafts fall early.
    Source("gsm8k", 0.15, "math", "openai/grade-school-math", "MIT"),
    Source("flan_cot", 0.09, "reasoning", "google-research/FLAN", "Apache-2.0"),
    Source(
        "synthetic_persona_chat",
        0.10,
        "chat",
        "google-research-datasets/Synthetic-Persona-Chat",
        "CC BY 4.0",
    ),
    Source("gpteacher_roleplay", 0.06, "writing", "teknium1/GPTeacher", "MIT"),
    Source("squality_summaries", 0.08, "summary", "nyu-mll/SQuALITY", "CC BY 4.0"),
    Source("tldr_pages", 0.04, "shell", "tldr-pages/tldr", "CC BY 4.0"),
)


def read_records(data: Path, source: Source, split: str) -> Iterator[dict[str, Any]]:
    """The records of one source; `split` is `train` or `heldout`."""
    path = data / f"{source.name}.{split}.jsonl.gz"
    if not path.is_file():
        raise FileNotFoundError(f"--data must hold {path.name}, not found in {data}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
