"""Terminal tables that show every column at every width; what they print is text, not markup."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

LEAST_TEXT = 24
"""Characters that a column of text keeps."""
GAP = 1
LONGEST = 200

Cell = Callable[[Any], Any]
"""What a column shows of a row."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table. Where it is too narrow for all numbers, they go on below, by the rows' numbers."""

    title: str
    rows: list[Any]
    texts: Mapping[str, Cell]  # columns that are folded, by their titles
    numbers: Mapping[str, Cell]  # columns that are not; a title may have several lines
    is_bold: Callable[[Any], bool] = lambda row: False
    is_numbered: bool = False  # whether the rows' numbers are shown anyway

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = {title: [_cut(cell(row)) for row in self.rows] for title, cell in self._columns}
        place = len(str(len(self.rows))) + GAP
        wholes = [name for name in self.texts if _width(name, shown[name]) <= LEAST_TEXT]
        taken = sum(_width(name, shown[name]) for name in wholes)
        taken += (LEAST_TEXT + GAP) * (len(self.texts) - len(wholes))
        blocks: list[list[str]] = [[]]
        left = options.max_width - taken - place
        for name in self.numbers:
            width = _width(name, shown[name])
            if width > left and blocks != [[]]:
                blocks.append([])
                left = options.max_width - place
            blocks[-1].append(name)
            left -= width
        is_numbered = self.is_numbered or len(blocks) > 1
        yield Text(self.title, style="italic")
        for number, names in enumerate(blocks):
            texts = list(self.texts) if number == 0 else []
            yield self._table(texts, names, shown, is_numbered)

    @property
    def _columns(self) -> Iterable[tuple[str, Cell]]:
        return (*self.texts.items(), *self.numbers.items())

    def _table(
        self, texts: list[str], numbers: list[str], shown: dict[str, list[str]], is_numbered: bool
    ) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP, 0, 0))
        if is_numbered:
            table.add_column("#", justify="right", no_wrap=True)
        for title in texts:
            is_short = _width(title, shown[title]) <= LEAST_TEXT
            table.add_column(Text(title), overflow="fold", no_wrap=is_short)
        for title in numbers:
            table.add_column(Text(title), justify="right", no_wrap=True)
        for place, row in enumerate(self.rows):
            cells = [Text(shown[title][place]) for title in (*texts, *numbers)]
            number = [Text(str(place + 1))] if is_numbered else []
            table.add_row(*number, *cells, style="bold" if self.is_bold(row) else None)
        return table


def _cut(value: Any) -> str:
    """A cell; a tree of hundreds of nodes is told by its beginning."""
    text = str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def _width(title: str, cells: list[str]) -> int:
    lines = [line for text in (title, *cells) for line in text.splitlines()]
    return max(map(cell_len, lines), default=0) + GAP


def interval(ci95: Any) -> str:
    """From and to; a dash where there is none."""
    return "-" if ci95 is None else f"{ci95[0]:.2f} to {ci95[1]:.2f}"


def share(value: float | None) -> str:
    """A part of headroom, with its sign; a dash where there is none."""
    return "-" if value is None else f"{value:+.0%}"
