"""One forward of target and head gives the recorded features, logits and log-probabilities."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from adaeagle import EagleDrafter, Target

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize(
    "head", ["rand/eagle_head", "rand/eagle_head_l3style", "trained/eagle_head"]
)
def test_prefill(head: str) -> None:
    """After the prompt: rounding apart, what the official code computed."""
    folder, name = head.split("/")
    with gzip.open(GOLDEN / folder / f"golden_eagle2_{name}.json.gz", "rt") as file:
        recording = json.load(file)
    target = Target.from_pretrained(str(GOLDEN / folder / "target"))
    drafter = EagleDrafter.from_pretrained(str(GOLDEN / head), target)
    for prompt, recorded in zip(recording["prompts"], recording["parity"], strict=False):
        with torch.inference_mode():
            features, logits = target.begin(1, 128, drafter.feature_layers).prefill(prompt)
            root = logits.argmax(-1)
            token_ids = torch.cat((torch.tensor([prompt[1:]], dtype=torch.int64), root[None]), 1)
            session = drafter.begin([prompt], 128)
            drafted = session.catch_up(token_ids, features.chosen, [len(prompt)]).logits
            assert drafted is not None
            outputs = drafter.head(
                drafter.embed(token_ids), features.last, torch.arange(len(prompt))[None]
            )
        assert int(root) == recorded["next_token"]
        for found, key in (
            (features.last[0, -1], "target_last_feature"),
            (features.chosen[0, -1], "draft_input_last_feature"),
            (logits[0], "target_last_logits"),
            (outputs[0, -1], "head_last_output"),
            (drafted[0, 0].log_softmax(-1), "head_last_logprobs"),
        ):
            expected = torch.tensor(recorded[key])
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5, msg=key)
