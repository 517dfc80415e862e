"""The benchmark of prompts on the bundled model: what it measures."""

from experiments.benchmarks.prefill import main


def test_both_forms_of_every_length_are_measured() -> None:
    result = main(["--lengths", "3", "9", "--repeats", "2"])
    assert [found["tokens"] for found in result["lengths"]] == [3, 9]
    assert all(found["whole_ms"] > 0 for found in result["lengths"])
    assert all(found["ratio"]["n"] == 2 for found in result["lengths"])
