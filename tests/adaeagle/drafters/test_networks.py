"""Drafters with a network are held to the contract of any drafter."""

from collections.abc import Callable

import pytest

from adaeagle import Target
from adaeagle.drafters.base import Drafter
from adaeagle.testing import DrafterContract


class TestNetworks(DrafterContract):
    @pytest.fixture(params=["model", "eagle", "eagle3"])
    def pair(
        self, request: pytest.FixtureRequest, make_pair: Callable[..., tuple[Target, Drafter]]
    ) -> tuple[Target, Drafter]:
        return make_pair(request.param)

    @pytest.fixture
    def target(self, pair: tuple[Target, Drafter]) -> Target:
        return pair[0]

    @pytest.fixture
    def drafter(self, pair: tuple[Target, Drafter]) -> Drafter:
        return pair[1]
