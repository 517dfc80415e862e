"""Drafting policies and stop rules: one decision rule a file."""

from policies.chain import Chain
from policies.confidence import Confidence
from policies.eagle2 import Eagle2
from policies.static_tree import StaticTree
from policies.vanilla import Vanilla

__all__ = ["Chain", "Confidence", "Eagle2", "StaticTree", "Vanilla"]
