"""`python -m experiments.smollm2.paper`: the six tasks of the EAGLE papers, on SmolLM2.

Question: in which order do the published rules stand on a real chat model, each tuned on other
prompts of the same tasks?

FOLDER holds the prompt files of the EAGLE repository (https://github.com/SafeAILab/EAGLE,
Apache-2.0; the prompts themselves are those of MT-bench, HumanEval, GSM8K, Alpaca, CNN/DailyMail
and Natural Questions): TASK/question.jsonl as there, or eagle_TASK.jsonl.

    OUT/prompts.jsonl    the same random prompts of every task, first turns
    OUT/study            `adaeagle study`: temperature 0, half the prompts to tune, half to test
    OUT/temperature_1    `adaeagle compare` of the tuned rules on the test half

Run again after a kill, or with more minutes: it goes on where it was.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict, replace
from pathlib import Path

from adaeagle.data.prompts import Prompt, read_prompts
from adaeagle.data.splits import TEST, split_of
from experiments.confirm.tuned import read_sweeps
from experiments.errors import InputError
from experiments.options import SamplingOptions
from experiments.runs.compare import CompareSettings, compare
from experiments.runs.models import ModelOptions
from experiments.study.planning import StudySettings
from experiments.study.running import run_study

TASKS = ("mt_bench", "humaneval", "gsm8k", "alpaca", "sum", "qa")


def chosen_prompts(folder: Path, prompts_a_task: int, seed: int = 0) -> list[Prompt]:
    """A fixed random choice of each task's prompts; a prompt's category is its task."""
    chosen = []
    for task in TASKS:
        official, flat = folder / task / "question.jsonl", folder / f"eagle_{task}.jsonl"
        prompts = read_prompts(str(official if official.is_file() else flat))
        for prompt in random.Random(seed).sample(prompts, min(prompts_a_task, len(prompts))):
            chosen.append(
                replace(prompt, id=f"{task}/{prompt.id}", category=task, turns=prompt.turns[:1])
            )
    return chosen


def write_prompts(prompts: list[Prompt], path: Path) -> str:
    """The path, as options take it."""
    lines = (json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.smollm2.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", default="smollm2")
    parser.add_argument("--drafter", help="default: the head bundled with the target")
    parser.add_argument("--prompts-a-task", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--trials", type=int, default=40, help="of each family of rules")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="of the study; default: no limit")
    given = parser.parse_args()

    models = ModelOptions(given.target, given.drafter, dtype="float32", threads=given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    prompts = chosen_prompts(given.prompts, given.prompts_a_task)
    study = run_study(
        StudySettings(
            out=given.out / "study",
            models=models,
            prompts=write_prompts(prompts, given.out / "prompts.jsonl"),
            max_new_tokens=given.max_new_tokens,
            trials=given.trials,
            time_budget=given.minutes,
        )
    )
    split = split_of(prompts)
    tests = [prompt for prompt in prompts if split[prompt.id] == TEST]
    tuned = read_sweeps(sorted((study.out / "sweeps").iterdir()))
    sampled = compare(
        CompareSettings(
            models=models,
            policies=["vanilla", *(family.tuned for family in tuned.families)],
            prompts=write_prompts(tests, given.out / "test_prompts.jsonl"),
            max_new_tokens=given.max_new_tokens,
            sampling=SamplingOptions(temperature=1.0),
            out=given.out / "temperature_1",
        )
    )
    print(json.dumps({"study": study.summary, "temperature_1": sampled.summary}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
