"""Conformance tests for policies and stop rules of any package; needs pytest.

class TestMine(PolicyContract):
    @pytest.fixture
    def policy(self) -> Policy:
        return Mine()
"""

import pytest

pytest.register_assert_rewrite("adaeagle.testing.contracts", "adaeagle.testing.checked")

from adaeagle.testing.contracts import PolicyContract, StopRuleContract  # noqa: E402

__all__ = ["PolicyContract", "StopRuleContract"]
