import numpy as np
import pytest

from adaeagle.bench.statistics import (
    acceptance_by_depth,
    bootstrap_ratio,
    conditional_acceptance,
)


def test_equal_arms_have_a_point_for_an_interval() -> None:
    arms = [(10.0, 1.0), (20.0, 1.5), (5.0, 2.0)]
    assert bootstrap_ratio(arms, arms) == (1.0, 1.0)


def test_one_prompt_says_nothing() -> None:
    assert bootstrap_ratio([(10, 1)], [(10, 2)]) is None


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Seconds with log-normal noise that both arms of a prompt share in part; true ratio 2."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        shared = rng.lognormal(0, 0.5, size=30)
        ours = [(10.0, second) for second in shared * rng.lognormal(0, 0.2, size=30)]
        theirs = [(10.0, 2 * second) for second in shared * rng.lognormal(0, 0.2, size=30)]
        found = bootstrap_ratio(ours, theirs, num_resamples=400, seed=seed)
        assert found is not None
        hits += found[0] <= 2 <= found[1]
    # 95 % within three deviations of 200 draws, and the percentile's known shortfall at 30 prompts.
    assert 0.88 <= hits / 200 <= 0.995


def test_prompts_are_drawn_in_pairs() -> None:
    """Arms that differ by a constant factor on every prompt: no doubt is left."""
    theirs = [(10.0, 1.0), (10.0, 50.0), (10.0, 3.0)]
    ours = [(tokens, seconds / 3) for tokens, seconds in theirs]
    assert bootstrap_ratio(ours, theirs) == pytest.approx((3.0, 3.0))


def test_acceptance_counts_only_rounds_that_went_as_deep() -> None:
    depths = [3, 3, 1, 0]
    accepted = [3, 1, 0, 0]
    assert acceptance_by_depth(depths, accepted) == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    assert acceptance_by_depth([0, 0], [0, 0]) == []


def test_conditional_acceptance_multiplies_to_the_joint() -> None:
    depths, accepted = [3] * 4, [0, 1, 1, 2]
    assert conditional_acceptance(depths, accepted) == pytest.approx([3 / 4, 1 / 3, 0])
    assert acceptance_by_depth(depths, accepted) == pytest.approx([3 / 4, 1 / 4, 0])
    assert conditional_acceptance([3, 1], [0, 1]) == [0.5, None, None]
    assert conditional_acceptance([0], [0]) == []
