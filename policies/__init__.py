"""Drafting policies and stop rules: one decision rule a file."""

from policies.adaedl import AdaEDL
from policies.bandit import UCB, Thompson
from policies.batch_select import BatchSelect
from policies.batch_slots import BatchSlots
from policies.batch_table import BatchTable
from policies.beam_total import BeamTotal
from policies.by_match_length import ByMatchLength
from policies.chain import Chain
from policies.combine import AllOf, AnyOf
from policies.confidence import Confidence
from policies.cumulative import Cumulative
from policies.eagle2 import Eagle2
from policies.entropy import Entropy
from policies.goodput import Goodput
from policies.hf_dynamic import HFDynamic
from policies.hf_heuristic import HFHeuristic
from policies.marginal_tree import MarginalTree
from policies.opt_tree import OptTree
from policies.score import Score
from policies.static_tree import StaticTree
from policies.talon import Talon
from policies.vanilla import Vanilla

__all__ = [
    "UCB",
    "AdaEDL",
    "AllOf",
    "AnyOf",
    "BatchSelect",
    "BatchSlots",
    "BatchTable",
    "BeamTotal",
    "ByMatchLength",
    "Chain",
    "Confidence",
    "Cumulative",
    "Eagle2",
    "Entropy",
    "Goodput",
    "HFDynamic",
    "HFHeuristic",
    "MarginalTree",
    "OptTree",
    "Score",
    "StaticTree",
    "Talon",
    "Thompson",
    "Vanilla",
]
