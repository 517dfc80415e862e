"""Conformance tests for policies, stop rules and drafters of any package; needs pytest.

class TestMine(PolicyContract):
    @pytest.fixture
    def policy(self) -> Policy:
        return Mine()
"""

import pytest

pytest.register_assert_rewrite(
    "adaeagle.testing.contracts", "adaeagle.testing.checked", "adaeagle.testing.drafter_contract"
)

from adaeagle.testing.contracts import (  # noqa: E402
    PolicyContract,
    StopRuleContract,
    tiny_pair,
)
from adaeagle.testing.drafter_contract import DrafterContract  # noqa: E402

__all__ = ["DrafterContract", "PolicyContract", "StopRuleContract", "tiny_pair"]
