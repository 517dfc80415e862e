"""The card of the bundled heads: model, text, training, tokens a round."""

from typing import Any

from experiments.mini.acceptance import TokensPerRound

COMMAND = "python -m experiments.smollm2 --out OUT"


def card(report: dict[str, Any]) -> str:
    """`README.md` of the bundled folder, from what the stages reported."""
    scale = report["scale"]
    return f"""# smollm2

An EAGLE-1/2 head for SmolLM2-135M-Instruct, the model that `adaeagle fetch smollm2` gets. That \
is `HuggingFaceTB/SmolLM2-135M-Instruct` (Apache-2.0) rounded to 4 bits; the head serves the \
published weights too; how well was not measured.

* **Command**: `{COMMAND}`
* **Text**: {report["num_texts"]:,} prompts and the model's own greedy answers, \
{report["num_tokens"]:,} tokens in all (`experiments/smollm2/data`, with sources and licences).
* **Head**: {report["steps"]:,} steps of {scale["head_batch"]} texts, {scale["unroll"]} unrolled \
steps, a draft vocabulary of {scale["draft_vocab_size"]:,} tokens; on held-out answers top-1 \
agreement {report["val_agreement"]:.3f}, greedy chains of 5 have {report["val_accepted_5"]:.2f} \
tokens accepted.
* **Weights**: bfloat16 files, cast to the target's dtype. Apache-2.0.

## Tokens a round

Temperature 0, the first {scale["prompts_a_task"]} prompts of each task of the EAGLE papers, \
{scale["max_new_tokens"]} new tokens a turn.

{_table(report["tokens_per_round"])}
"""


def _table(acceptance: TokensPerRound) -> str:
    """A row a task, a column a policy."""
    if not acceptance:
        return "Not measured."
    rows: dict[str, dict[str, float]] = {}
    for arm, by_source in acceptance.items():
        task, _, policy = arm.partition(", ")
        rows.setdefault(task, {})[policy] = by_source["all"]
    policies = list(next(iter(rows.values())))
    lines = ["| task | " + " | ".join(policies) + " |", "|---|" + "--:|" * len(policies)]
    lines += [
        f"| {task} | " + " | ".join(f"{found[policy]:.2f}" for policy in policies) + " |"
        for task, found in rows.items()
    ]
    return "\n".join(lines)
