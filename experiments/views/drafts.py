"""What became of every drafted token, a round at a time and a line a level.

Signs say what colours say, so that a log reads as well as a terminal.
"""

from collections.abc import Iterator
from typing import Literal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from adaeagle import Piece, Policy, Round
from adaeagle.policy import Outcome
from experiments.recorded import Recorded

Fate = Literal["accepted", "own", "rejected", "unreached"]
SIGNS: dict[Fate, str] = {"accepted": "+", "own": "=", "rejected": "-", "unreached": "."}
STYLES: dict[Fate, str] = {
    "accepted": "bold green",
    "own": "bold cyan",
    "rejected": "red",
    "unreached": "dim",
}
MEANINGS: dict[Fate, str] = {
    "accepted": "accepted",
    "own": "the target's own (bonus)",
    "rejected": "rejected",
    "unreached": "not reached",
}
VISIBLE = str.maketrans({" ": "·", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


class DraftView:
    """Prints drafted tokens, sorted at each level by what became of them.

    Args:
        tokenizer: None: tokens are shown as their ids.
        console: where to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, console: Console) -> None:
        self._tokenizer = tokenizer
        self._console = console
        self._outcome: Outcome | None = None
        self._number = 0
        self._legend()

    def watch(self, policy: Policy) -> Policy:
        """The same policy, whose rounds `show` can show."""
        return Recorded(policy, self._listen)

    def _listen(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def show(self, piece: Piece) -> None:
        """Shows the round that has just emitted `piece`; the prefill's token begins an answer."""
        if piece.round is None:
            self._number = 0
            self._print(Text("prefill"), [[("own", piece.token_ids[0])]])
            return
        assert self._outcome is not None
        self._number += 1
        title = _title(self._number, piece.round)
        self._print(title, list(levels(self._outcome, piece.token_ids, piece.round.num_accepted)))

    def _print(self, title: Text, rows: list[list[tuple[Fate, int]]]) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(justify="right", width=4, style="dim")
        table.add_column(overflow="fold")
        for depth, tokens in enumerate(rows, start=1):
            parts = (Text(SIGNS[fate] + self._text(id_), STYLES[fate]) for fate, id_ in tokens)
            table.add_row(str(depth), Text(" ").join(parts))
        self._console.print(Group(title, table))

    def _text(self, token_id: int) -> str:
        if self._tokenizer is None:
            return str(token_id)
        return str(self._tokenizer.decode([token_id])).translate(VISIBLE)

    def _legend(self) -> None:
        parts = (Text(f"{SIGNS[fate]} {MEANINGS[fate]}", STYLES[fate]) for fate in SIGNS)
        self._console.print(Text("   ").join(parts))


def _title(number: int, found: Round) -> Text:
    forwards = "1 forward" if found.depth == 1 else f"{found.depth} forwards"
    return Text(
        f"round {number}: {found.num_drafted} drafted in {forwards}, {found.num_verified} "
        f"verified, {found.num_accepted} accepted",
        style="italic",
    )


def levels(
    outcome: Outcome, emitted: list[int], num_accepted: int
) -> Iterator[list[tuple[Fate, int]]]:
    """For every depth of one round its tokens: the emitted one first, then by likelihood.

    Args:
        outcome: of the round.
        emitted: its tokens. A text at its limit may leave out accepted ones: those are unreached.
        num_accepted: how many of them were drafted.
    """
    tree = outcome.tree
    order = tree.path_log_probs[0].argsort(descending=True, stable=True).tolist()
    token_ids, depths = tree.token_ids[0].tolist(), tree.depths[0].tolist()
    tested, accepted = outcome.tested[0].tolist(), outcome.accepted[0].tolist()
    valid = tree.valid[0].tolist()
    deepest = max([len(emitted), *(depths[row] for row in order if valid[row])])
    for depth in range(1, deepest + 1):
        groups: dict[Fate, list[int]] = {fate: [] for fate in SIGNS}
        if num_accepted < depth <= len(emitted):
            groups["own"].append(emitted[depth - 1])
        for row in order:
            if valid[row] and depths[row] == depth:
                groups[_fate(depth, tested[row], accepted[row], num_accepted)].append(
                    token_ids[row]
                )
        yield [(fate, token) for fate, tokens in groups.items() for token in tokens]


def _fate(depth: int, tested: bool, accepted: bool, num_accepted: int) -> Fate:
    if accepted:
        return "accepted" if depth <= num_accepted else "unreached"
    return "rejected" if tested else "unreached"
