import re

import torch
from torch import nn

from adaeagle.bench import provenance
from adaeagle.models.fingerprint import fingerprint


def test_a_result_says_where_it_comes_from() -> None:
    assert provenance.hardware()["threads"] == torch.get_num_threads()
    assert {"adaeagle", "python", "torch", "transformers"} <= provenance.versions().keys()
    found = provenance.git()
    assert found is None or re.fullmatch(r"[0-9a-f]{40}", found["commit"])


def test_a_fingerprint_tells_weights_apart() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    before = fingerprint(layer)
    assert fingerprint(layer) == before
    with torch.no_grad():
        layer.weight[0, 0] += 1e-3
    assert fingerprint(layer) != before
