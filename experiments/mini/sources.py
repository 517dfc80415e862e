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
    commit: str
    licence: str
    attribution: str
    max_turns: int = 1


GPTEACHER = "Teknium; the text was generated with GPT-4, whose terms may limit competing models"
TASKMASTER = "Taskmaster-4: Bill Byrne and Saravanan Ganesh, Google LLC"
MXEVAL = "Amazon (mxeval); problems of MBPP by Google Research (CC BY 4.0)"

SOURCES = (
    # Regular text: a drafter can run far ahead.
    Source(
        "gpteacher_toolformer",
        0.11,
        "tool",
        "teknium1/GPTeacher",
        "481075123c29",
        "MIT",
        GPTEACHER,
    ),
    Source(
        "taskmaster4_api",
        0.12,
        "tool",
        "google-research-datasets/Taskmaster",
        "d92cb6af3005",
        "CC BY 4.0",
        TASKMASTER,
    ),
    Source(
        "taskmaster4",
        0.04,
        "dialogue",
        "google-research-datasets/Taskmaster",
        "d92cb6af3005",
        "CC BY 4.0",
        TASKMASTER,
        max_turns=2,
    ),
    Source(
        "nl2bash",
        0.07,
        "shell",
        "TellinaTool/nl2bash",
        "466c5fe873ab",
        "MIT",
        "The authors of NL2Bash (X. V. Lin et al. 2018)",
    ),
    Source(
        "mbxp_code",
        0.10,
        "code",
        "amazon-science/mxeval",
        "e09974f990ee",
        "CC BY 4.0",
        MXEVAL,
    ),
    Source(
        "mathqa_python",
        0.04,
        "code",
        "amazon-science/mxeval",
        "e09974f990ee",
        "CC BY 4.0",
        "Amazon (mxeval)",
    ),
    # Irregular text: most drafts fall early.
    Source(
        "gsm8k",
        0.15,
        "math",
        "openai/grade-school-math",
        "3101c7d50724",
        "MIT",
        "OpenAI (K. Cobbe et al. 2021)",
    ),
    Source(
        "flan_cot",
        0.09,
        "reasoning",
        "google-research/FLAN",
        "e9e4ec6e2701",
        "Apache-2.0",
        "Google Research; underlying sets AQuA, ECQA, CREAK, SenseMaking, StrategyQA and QASC",
    ),
    Source(
        "synthetic_persona_chat",
        0.10,
        "chat",
        "google-research-datasets/Synthetic-Persona-Chat",
        "1f367a0f05d3",
        "CC BY 4.0",
        "Google Research (P. Jandaghi et al. 2023)",
        max_turns=2,
    ),
    Source(
        "gpteacher_roleplay",
        0.06,
        "writing",
        "teknium1/GPTeacher",
        "481075123c29",
        "MIT",
        GPTEACHER,
    ),
    Source(
        "squality_summaries",
        0.08,
        "summary",
        "nyu-mll/SQuALITY",
        "dc08d4f57463",
        "CC BY 4.0",
        "New York University (A. Wang et al. 2022)",
    ),
    Source(
        "tldr_pages",
        0.04,
        "shell",
        "tldr-pages/tldr",
        "08e345f42639",
        "CC BY 4.0",
        "The tldr-pages team and contributors",
    ),
)


def read_records(data: Path, source: Source, split: str) -> Iterator[dict[str, Any]]:
    """The records of one source; `split` is `train` or `heldout`."""
    path = data / f"{source.name}.{split}.jsonl.gz"
    if not path.is_file():
        raise FileNotFoundError(f"--data must hold {path.name}, not found in {data}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
