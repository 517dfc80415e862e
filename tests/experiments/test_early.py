"""What is found before anything heavy is imported."""

import subprocess
import sys

import pytest

from experiments import early
from experiments.errors import InputError


def test_a_path_that_leads_nowhere_costs_no_import() -> None:
    code = (
        "import sys; from experiments.cli import main\n"
        "assert main(['compare', '--prompts', 'nowhere.jsonl']) == 2\n"
        "assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "bundled set (mini), got 'nowhere.jsonl'" in found.stderr


def test_what_is_there_passes() -> None:
    early.check({"policies": ["chain(length=4)", "chain(stop=?)", "runs/a/best.json"]})
    early.check({"policy": "eagle2", "baseline": None, "prompts": "mini"})


@pytest.mark.parametrize("given", [{"policies": ["chain", "chian(length=2)"]}, {"policy": "chian"}])
def test_a_misspelt_name_is_named(given: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"unknown name 'chian' .* did you mean 'chain'"):
        early.check(given)
