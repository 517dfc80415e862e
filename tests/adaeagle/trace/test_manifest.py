"""Which models a trace is of, and how its prompts lie in shards."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.data.splits import TEST, TUNE, Split
from adaeagle.models.fingerprint import fingerprint
from adaeagle.trace.manifest import Manifest, check_models, plan_shards

Pair = tuple[Target, EagleDrafter | ModelDrafter]


@pytest.fixture(params=["eagle", "model"])
def pair(request: pytest.FixtureRequest, make_pair: Callable[..., Any]) -> Pair:
    target, drafter = make_pair(request.param)
    return target, drafter


@pytest.fixture
def recorded(manifest: Manifest, pair: Pair) -> Manifest:
    """The manifest of a trace of `pair`."""
    target, drafter = pair
    assert drafter.network is not None
    return replace(
        manifest,
        target_weights=fingerprint(target.model),
        drafter_weights=fingerprint(drafter.network),
    )


def test_the_models_that_were_recorded_are_accepted(recorded: Manifest, pair: Pair) -> None:
    check_models(recorded, target=pair[0], drafter=pair[1])
    check_models(Manifest.from_json(recorded.to_json()), target=pair[0], drafter=pair[1])


def test_another_target_is_refused(
    recorded: Manifest, pair: Pair, make_model: Callable[..., Any]
) -> None:
    other = Target(make_model("llama", seed=5), name="other")
    with pytest.raises(ValueError, match=r"target must be .* tiny \(weights \w+\), got other"):
        check_models(recorded, target=other, drafter=pair[1])


def test_another_drafter_is_refused(recorded: Manifest, pair: Pair) -> None:
    target, drafter = pair
    other = replace(recorded, drafter_weights="0123")
    with pytest.raises(ValueError, match=r"drafter must be .* head \(weights 0123\), got "):
        check_models(other, target=target, drafter=drafter)


def test_another_precision_is_refused(recorded: Manifest, pair: Pair) -> None:
    other = replace(recorded, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"dtype must be .* bfloat16, got float32"):
        check_models(other, target=pair[0], drafter=pair[1])


def test_a_changed_weight_is_noticed(recorded: Manifest, pair: Pair) -> None:
    target, drafter = pair
    weight = next(iter(target.model.parameters()))
    # Cached models may have been made in this mode, which then must be on to change them.
    with torch.inference_mode():
        before = weight.flatten()[0].clone()
        weight.view(-1)[0] += 1.0
        try:
            with pytest.raises(ValueError, match="target must be"):
                check_models(recorded, target=target, drafter=drafter)
        finally:
            weight.view(-1)[0] = before


@pytest.mark.parametrize("prompts_per_shard", [1, 2, 3, 100])
def test_shards_hold_every_prompt_once_and_one_split_each(prompts_per_shard: int) -> None:
    ids = [str(number) for number in range(11)]
    splits: dict[str, Split] = {id_: TUNE if int(id_) % 3 else TEST for id_ in ids}
    shards = plan_shards(ids, splits, prompts_per_shard)
    assert sorted((id_ for shard in shards for id_ in shard.prompt_ids), key=int) == ids
    for shard in shards:
        assert {splits[id_] for id_ in shard.prompt_ids} == {shard.split}
        assert shard.prompt_ids == sorted(shard.prompt_ids, key=int)
        assert len(shard.prompt_ids) <= prompts_per_shard
    assert len(shards) == -(-7 // prompts_per_shard) + -(-4 // prompts_per_shard)


def test_an_empty_shard_is_refused() -> None:
    with pytest.raises(ValueError, match="prompts_per_shard must be >= 1, got 0"):
        plan_shards(["a"], {"a": TUNE}, 0)
