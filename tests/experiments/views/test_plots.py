"""Pictures of more policies than there are colours, and of a single one; warnings are errors."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from adaeagle.bench.records import ArmRecord, PromptRecord
from adaeagle.bench.run_folder import RunFolder
from experiments.views import plots


def arm(scale: float, accepted: list[int]) -> ArmRecord:
    return ArmRecord(
        num_tokens=sum(accepted) + len(accepted) + 1,
        seconds=scale,
        prefill_seconds=0.1 * scale,
        draft_seconds=0.3 * scale,
        verify_seconds=0.4 * scale,
        policy_seconds=0.1 * scale,
        other_seconds=0.1 * scale,
        depth=[6] * len(accepted),
        num_drafted=[9] * len(accepted),
        num_verified=[9] * len(accepted),
        num_accepted=accepted,
        num_emitted=[count + 1 for count in accepted],
    )


def make_records(num_policies: int, num_prompts: int) -> list[PromptRecord]:
    names = ["vanilla", *(f"eagle2(depth={n}, width=10, nodes=59)" for n in range(num_policies))]
    return [
        PromptRecord(
            id=str(prompt),
            category="",
            source=f"source {prompt % 3}",
            num_turns=1,
            order=names,
            arms={
                name: arm(1 + place + 0.1 * prompt, [0] * 6 if place == 0 else [place % 5, 2, 0])
                for place, name in enumerate(names)
            },
            divergences=[],
            policy_states="",
        )
        for prompt in range(num_prompts)
    ]


@pytest.mark.parametrize(("num_policies", "num_prompts"), [(10, 5), (1, 1), (0, 1)])
def test_every_picture(tmp_path: Path, num_policies: int, num_prompts: int) -> None:
    records = make_records(num_policies, num_prompts)
    paths = plots.draw_all(records, "source", RunFolder(tmp_path, {}))
    assert len(paths) == 5
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def texts(figure: Figure) -> str:
    return "\n".join(
        text.get_text() for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels())
    )


def test_what_the_pictures_say() -> None:
    records = make_records(2, 4)
    assert "1.00x" in texts(plots.speedup(records))
    assert "eagle2(depth=1, width=10,\nnodes=59)" in texts(plots.speedup(records))
    assert "ms for" in texts(plots.time_per_round(records))
    assert "source 2" in texts(plots.tokens_per_round(records, "source"))
    panels = plots.accepted_length(records).axes
    assert [axes.get_title().splitlines()[-1] for axes in panels] == ["mean 1.00", "mean 1.33"]
