"""Draft more after a full success, less after anything else.

Source: the `heuristic` schedule of assisted generation in `transformers`
(`generation/candidate_generator.py`, https://huggingface.co/blog/assisted-generation): from 5
tokens, 2 more where every drafted token was accepted, else 1 less, never below 1.
Differs from the code: it counts on across texts ("heuristic"), we begin each text anew
("heuristic_transient") unless `across_texts` says otherwise, so that results do not depend on the
order of prompts. The count rises only where that many tokens were drafted: a success that the
shape, another rule or the end of the text cut short leaves it, where the code adds 2 without end.
On trees the count is of levels, and success is an accepted path as deep as the draft.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from adaeagle.policy import Outcome, StopRule
from adaeagle.ranges import at_least
from adaeagle.search_space import Int, SearchSpace
from adaeagle.tree import DraftTree
from policies.support.row_state import for_rows


class HFHeuristic(StopRule):
    """Goes on until as many levels are drafted as recent success suggests.

    Alone it stops a chain of the default length; for the schedule as it is in `transformers`, give
    it room: `chain(stop=hf_heuristic, length=40)`.

    Args:
        start: tokens drafted in a text's first round.
        across_texts: begin a text where the last one ended.
    """

    learns = True

    search_space: ClassVar[SearchSpace] = {"start": Int(1, 12)}

    def __init__(self, start: int = 5, across_texts: bool = False) -> None:
        at_least(1, start=start)
        self.start = start
        self.across_texts = across_texts
        self.num_tokens = torch.tensor([start])  # [1], or [P] once a round was seen

    def reset(self) -> None:
        if not self.across_texts:
            self.num_tokens = torch.tensor([self.start])

    def should_continue(self, tree: DraftTree, frontier: Tensor) -> Tensor:
        limit = for_rows(self.num_tokens, tree.num_rounds).to(frontier.device)
        return tree.depths.gather(1, frontier) < limit.unsqueeze(1)

    def observe(self, outcome: Outcome) -> None:
        depth = outcome.depth
        before = for_rows(self.num_tokens, depth.shape[0]).to(depth.device)
        success = outcome.num_accepted >= depth
        more = before + 2 * (depth >= before)
        self.num_tokens = torch.where(success, more, (before - 1).clamp(min=1))

    def state_dict(self) -> dict[str, Any]:
        return {"num_tokens": self.num_tokens} if self.across_texts else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.num_tokens = state["num_tokens"]
