"""What of a draft is accepted, and which tokens a round emits.

Greedy, by the seed alone (`coupled`), or by rejection, which keeps the target's distribution; see
`adaeagle.decoding.verification`. Shapes: P texts, V vocabulary, N verified nodes, E draft rows.
"""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adaeagle.decoding import verification
from adaeagle.decoding.gumbel import gumbel_noise
from adaeagle.decoding.sampling import Sampling
from adaeagle.decoding.sequence import Sequence
from adaeagle.tree import DraftTree


@dataclass(slots=True)
class Verdict:
    """One text's verification in one round, on the host."""

    rows: list[int]  # accepted nodes, from the root down
    emitted: list[int]  # accepted tokens and the bonus token
    tested: list[int] | None = None  # nodes tried; None: whatever hangs from an accepted node


class Acceptance:
    """How the tokens of texts are chosen.

    Args:
        sampling: the target's distribution, and what is random in a text.
        vocab_size: V of the target.
        device: of its logits.
    """

    def __init__(self, sampling: Sampling, vocab_size: int, device: torch.device) -> None:
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._device = device

    def noise(self, sequences: Many[Sequence], depth: int) -> Tensor:
        """What picks, in coupled sampling, the tokens `depth` places behind the pending ones.

        [P, V], and for depth 0 those right behind.
        """
        return torch.cat(
            [
                gumbel_noise(each.seed, len(each) + depth, 1, self._vocab_size, self._device)
                for each in sequences
            ]
        )

    def first(self, sequence: Sequence, logits: Tensor) -> int:
        """The token after a prompt, whose logits are [1, 1, V].

        Raises:
            ArithmeticError: they are no numbers, as in half precision where activations overflow.
        """
        if bool(logits.isnan().any()):
            raise ArithmeticError(
                f"the target's logits must be numbers, got NaN in {logits.dtype}: try another dtype"
            )
        tree = DraftTree.empty(1, self._device)
        [verdict] = self.accept([sequence], tree, tree.valid.unsqueeze(2), logits, None)
        return verdict.emitted[0]

    def accept(
        self,
        sequences: Many[Sequence],
        tree: DraftTree,
        paths: Tensor,
        logits: Tensor,
        distributions: Tensor | None,
    ) -> list[Verdict]:
        """What verification finds.

        Args:
            sequences: the texts.
            tree: N verified nodes.
            paths: [P, N, N] bool, see `adaeagle.tree.ancestors`.
            logits: [P, N + 1, V] of the target after the root and after every node.
            distributions: [P, E, V] of the draft rows, where children were drawn.
        """
        if not (self._sampling.is_greedy or self._sampling.is_coupled):
            return [
                self._reject(
                    sequence,
                    tree.row(row),
                    logits[row],
                    None if distributions is None else distributions[row],
                )
                for row, sequence in enumerate(sequences)
            ]
        choices = self._choices(sequences, logits, tree)
        if len(tree) == 0:
            return [Verdict([], emitted) for emitted in choices.tolist()]
        accepted = verification.greedy(tree, paths, choices)
        # The round's one host sync where shapes are static.
        verdicts = []
        for row in torch.cat((accepted.long(), choices), dim=1).tolist():
            marks, chosen = row[: len(tree)], row[len(tree) :]
            rows = [node for node, mark in enumerate(marks) if mark]
            # The target's choice after the root and after each accepted node.
            verdicts.append(Verdict(rows, [chosen[0], *(chosen[node + 1] for node in rows)]))
        return verdicts

    def _choices(self, sequences: Many[Sequence], logits: Tensor, tree: DraftTree) -> Tensor:
        """The target's token after the root and after every node: [P, N+1, V] → [P, N+1]."""
        if self._sampling.is_greedy:
            return logits.argmax(-1)
        noise = torch.stack(
            [self.noise(sequences, depth) for depth in range(tree.num_levels + 1)], dim=1
        )
        depths = F.pad(tree.depths, (1, 0)).unsqueeze(2).expand(-1, -1, noise.shape[2])
        return (self._sampling.log_probs(logits) + noise.gather(1, depths)).argmax(-1)

    def _reject(
        self, sequence: Sequence, tree: DraftTree, logits: Tensor, distributions: Tensor | None
    ) -> Verdict:
        def uniform() -> float:
            return float(torch.rand((), dtype=torch.float64, generator=sequence.uniforms))

        probs = self._sampling.log_probs(logits).exp()
        path = verification.rejection(tree, probs, distributions, uniform)
        # The bonus token is drawn by inversion, so that the seed alone decides.
        total = path.bonus_probs.double().cumsum(0)
        if not float(total[-1]) > 0:
            raise ArithmeticError("the target's distribution must sum to 1, its logits hold NaN")
        bonus = torch.searchsorted(total, uniform() * total[-1:], right=True)
        tokens = tree.token_ids[0, path.rows].tolist()
        return Verdict(path.rows, [*tokens, min(int(bonus), len(total) - 1)], path.tested)
