import copy
import logging
from collections.abc import Callable

import pytest

from adaeagle import ModelDrafter, Target, generate
from adaeagle.drafters.base import Drafter


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "acceptance_watch" in record.name]


def test_a_network_that_is_never_accepted_draws_one_warning(
    make_pair: Callable[..., tuple[Target, Drafter]], caplog: pytest.LogCaptureFixture
) -> None:
    target, _ = make_pair("model")
    model = copy.deepcopy(target.model)
    for name, weight in model.named_parameters():
        if "lm_head" in name:
            weight.requires_grad_(False).neg_()
    wrong = ModelDrafter(Target(model, name="wrong"), target)
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            generate(target, wrong, "chain(length=2)", [1, 2, 3], max_new_tokens=30)
    [message] = warnings_of(caplog)
    assert message.startswith("wrong: 0 drafted tokens were accepted in 50 rounds")


def test_a_good_one_draws_none(
    make_pair: Callable[..., tuple[Target, Drafter]], caplog: pytest.LogCaptureFixture
) -> None:
    target, drafter = make_pair("model")
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            generate(target, drafter, "chain(length=2)", [1, 2, 3], max_new_tokens=60)
    assert warnings_of(caplog) == []
