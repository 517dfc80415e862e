"""Tokens a round on the bundled prompts, by source: what `mini`'s card states."""

from collections import defaultdict
from collections.abc import Sequence

import adaeagle
from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.data.prompts import Conversation, Prompt

POLICIES = ("chain(length=5)", "eagle2()", "eagle2(depth=5, width=4, nodes=16)")

TokensPerRound = dict[str, dict[str, float]]
"""By arm, then by source; `all` is the total."""


def tokens_per_round(
    target: Target,
    drafters: dict[str, EagleDrafter | ModelDrafter],
    prompts: Sequence[Prompt],
    *,
    policies: Sequence[str] = POLICIES,
    max_new_tokens: int = 128,
) -> TokensPerRound:
    """Greedy decoding of every prompt with every drafter and policy."""
    found: TokensPerRound = {}
    for name, drafter in drafters.items():
        for policy in policies:
            counts: dict[str, list[int]] = defaultdict(list)
            for prompt in prompts:
                conversation = Conversation(target, prompt)
                while (ids := conversation.next_ids()) is not None:
                    text = adaeagle.generate(
                        target, drafter, policy, ids, max_new_tokens=max_new_tokens
                    )
                    conversation.answer(text.token_ids)
                    emitted = [round_.num_emitted for round_ in text.rounds]
                    counts[prompt.source] += emitted
                    counts["all"] += emitted
            found[f"{name}, {policy}"] = {
                source: round(sum(rounds) / max(1, len(rounds)), 2)
                for source, rounds in counts.items()
            }
    return found
