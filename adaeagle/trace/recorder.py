"""Records a target's answers and the drafts of every position.

The envelope of a text is the union of what given policies would draft at each of its positions:
they are run against an empty record, and whatever they ask for is drafted and kept.

Shapes: A prompt tokens, L new tokens, Q = L - 1 positions, K recorded target choices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaeagle.data.prompts import Conversation, Prompt
from adaeagle.decoding.clock import RoundClock
from adaeagle.decoding.generate import generate
from adaeagle.decoding.round import Drafted, draft_round
from adaeagle.drafters.base import Drafter
from adaeagle.models.backbone import LAST
from adaeagle.models.target import Target
from adaeagle.policy import Policy
from adaeagle.registry import get_policy
from adaeagle.trace.envelope import Envelope
from adaeagle.trace.expander import Expander
from adaeagle.trace.positions import Positions
from adaeagle.trace.proposer import RecordedProposer
from adaeagle.trace.text import RecordedText

DEFAULT_ENVELOPE = (
    "chain(length=16)",
    "eagle2(depth=8, width=10)",
    "eagle2(depth=8, width=3)",
    "static_tree(tree='eagle1')",
)
"""Any chain up to 16, the beams of wide and narrow EAGLE-2 trees, EAGLE's static tree."""

MIN_RANKS = 10
LOGIT_ROWS = 256  # whose logits are held at once


@dataclass(frozen=True, slots=True)
class Recorder:
    """Records answers to prompts at temperature 0.

    Args:
        target: whose text it is.
        drafter: whose drafts are recorded.
        policies: specs; the envelope is the union of their drafts. They must not learn.
        max_new_tokens: of each answer.
        num_top: K, how many of the target's choices are kept at each token.
        positions_at_once: bounds the memory of the draft model's cache.
    """

    target: Target
    drafter: Drafter
    policies: Sequence[str] = DEFAULT_ENVELOPE
    max_new_tokens: int = 256
    num_top: int = 8
    positions_at_once: int = 16

    def __post_init__(self) -> None:
        check_recordable(self.drafter)
        if not self.policies:
            raise ValueError("policies must name at least one envelope, got none")
        for spec in self.policies:
            if get_policy(spec).learns:
                raise ValueError(f"policies of an envelope must not learn, got {spec!r}")

    @torch.inference_mode()
    def record(self, prompt: Prompt) -> list[RecordedText]:
        """The answer to every turn, those before it being its history."""
        talk = Conversation(self.target, prompt)
        texts = []
        while (prompt_ids := talk.next_ids()) is not None:
            # Any policy gives the same text; a drafting one gives it sooner.
            out = generate(
                self.target,
                self.drafter,
                self.policies[0],
                prompt_ids,
                max_new_tokens=self.max_new_tokens,
            )
            text = self._read(prompt, talk.num_answered, prompt_ids, out.token_ids)
            texts.append(replace(text, envelope=self._draft(text)))
            talk.answer(out.token_ids)
        return texts

    def _read(
        self, prompt: Prompt, turn: int, prompt_ids: list[int], token_ids: list[int]
    ) -> RecordedText:
        """Runs the whole text through the target once."""
        device, num_prompt = self.target.device, len(prompt_ids)
        seen = torch.tensor([*prompt_ids, *token_ids[:-1]])
        layers = self.drafter.feature_layers
        positions = torch.arange(len(seen), device=device)[None]
        found = self.target.forward(seen.to(device)[None], positions, None, None, layers or (LAST,))
        tops = [
            self.target.logits(rows).float().log_softmax(-1).topk(self.num_top)
            for rows in torch.split(found.last[0, num_prompt - 1 :], LOGIT_ROWS)
        ]
        reads_last = layers in ((), (LAST,))
        return RecordedText(
            prompt_id=prompt.id,
            turn=turn,
            category=prompt.category,
            source=prompt.source,
            prompt_ids=torch.tensor(prompt_ids),
            token_ids=torch.tensor(token_ids),
            limit=min(self.max_new_tokens, self.target.max_length - num_prompt),
            features=found.last[0].cpu(),
            draft_features=None if reads_last else found.chosen[0].cpu(),
            top_token_ids=torch.cat([top.indices for top in tops]).cpu(),
            top_log_probs=torch.cat([top.values for top in tops]).cpu(),
            envelope=Envelope(len(token_ids) - 1, MIN_RANKS),
        )

    def _draft(self, text: RecordedText) -> Envelope:
        """Everything that the policies would draft at any position of `text`."""
        positions = Positions([text])
        envelope = text.envelope
        expander = Expander(self.drafter, [text], positions, envelope)
        policies = [get_policy(spec) for spec in self.policies]
        for rows in torch.split(torch.arange(len(positions)), self.positions_at_once):
            for policy in policies:
                proposer = RecordedProposer(
                    envelope, rows, lambda: expander, self.target.vocab_size
                )
                draft_at(policy, proposer, positions, rows)
            expander.forget()
        return envelope


def check_recordable(drafter: Drafter) -> None:
    """Refuses drafters whose drafts are not those of a text, or need no record.

    Raises:
        ValueError: the message says which.
    """
    if not drafter.is_replayable:
        raise ValueError(
            f"{drafter.name} cannot be recorded: its drafts depend on more than the text"
        )
    if drafter.score is not None:
        raise ValueError(
            f"{drafter.name} needs no record: what is looked up in a text is found anew, "
            "so record a draft network and replay with this drafter"
        )


def draft_at(
    policy: Policy, proposer: RecordedProposer, positions: Positions, rows: Tensor
) -> Drafted:
    """What a policy drafts at positions `rows` [P], side by side."""
    context = positions.context(rows, round_number=0)
    return draft_round(policy, proposer, context, RoundClock(torch.device("cpu")))
