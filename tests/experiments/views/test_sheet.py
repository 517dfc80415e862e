"""Terminal tables: nothing that decides is left out, whatever the width, and data is text."""

import io
from typing import Any

import pytest
from rich.console import Console

from experiments.commands.show import show
from experiments.views.sheet import LONGEST, Sheet, interval, share

SPEC = "eagle2(depth=6, width=10, nodes=59, stop=confidence(threshold=0.4))"
NUMBERS = ("tokens/s", "speed-up", "95 % interval", "a round", "nodes", "AUC", "best constant")


def printed(sheet: Any, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(sheet)
    return file.getvalue()


def make(rows: list[Any], numbers: Any = NUMBERS) -> Sheet:
    cells = {
        name: lambda row, place=place: f"{row}{place}.25" for place, name in enumerate(numbers)
    }
    return Sheet("a title", rows, {"policy": lambda row: f"{row} {SPEC}"}, cells)


@pytest.mark.parametrize("width", [60, 80, 100, 240])
def test_every_column_is_shown_at_every_width(width: int) -> None:
    text = printed(make([1, 2]), width)
    assert max(map(len, text.splitlines())) <= width
    for place, name in enumerate(NUMBERS):
        assert name in text
        assert f"1{place}.25" in text
        assert f"2{place}.25" in text


def test_a_narrow_table_goes_on_by_the_numbers_of_its_rows() -> None:
    wide, narrow = (printed(make([7, 8]), width) for width in (240, 80))
    assert "#" not in wide
    blocks = narrow.split("#")[1:]
    assert len(blocks) > 1
    assert all(" 1 " in block and " 2 " in block for block in blocks)


def test_square_brackets_are_text() -> None:
    hostile = "[/INST] [bold]x[/bold] [/a]"
    sheet = Sheet(hostile, [1], {hostile: lambda _: hostile}, {"[red]": lambda _: "[/]"})
    text = " ".join(printed(sheet, 120).split())
    assert text.count(hostile) == 3
    assert "[red]" in text
    assert "[/]" in text


def test_a_long_tree_is_cut() -> None:
    text = printed(Sheet("", [1], {"tree": lambda _: "[0, 1]" * 999}, {}), 80)
    assert len("".join(text.split())) < 2 * LONGEST
    assert "..." in text


def test_what_is_absent_is_a_dash() -> None:
    assert (interval(None), share(None)) == ("-", "-")
    assert interval((1.004, 2)) == "1.00 to 2.00"
    assert share(0.256) == "+26%"


def test_sentences_and_paths_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    show({"out": "x"}, ["[/a] is [bold]"], ["runs/[/INST]/results.json"], as_json=False)
    said = capsys.readouterr().out
    assert "[/a] is [bold]\n" in said
    assert "runs/[/INST]/results.json\n" in said
