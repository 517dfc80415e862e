"""What travels with the package: the model `mini` and prompt sets."""

from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "bundled_data"


def bundled_folder(name: str, part: str) -> Path | None:
    """The folder of a bundled model's `part`: `target`, `eagle_head` or `draft_lm`.

    None where nothing bundled has that name, or where a folder of that name lies in the working
    directory, which goes first.
    """
    folder = BUNDLED / name / part
    return folder if folder.is_dir() and not Path(name).exists() else None


def bundled_prompts(name: str) -> Path | None:
    """The JSON Lines file of a bundled prompt set; None where there is none of that name."""
    path = BUNDLED / name / "prompts.jsonl"
    return path if path.is_file() else None


def bundled_cost(name: str) -> Path | None:
    """The cost table of a bundled model, of the machine it was measured on; None: no such model."""
    path = BUNDLED / name / "cost.json"
    return path if path.is_file() else None
