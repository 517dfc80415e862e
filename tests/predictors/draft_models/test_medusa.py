"""Medusa's losses against a loop over tokens, and accepted drafts against live rounds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from adaeagle import Target, generate
from adaeagle.drafters.medusa import MedusaDrafter
from predictors.draft_models.data import EagleBatch
from predictors.draft_models.medusa import MedusaTraining, default_heads
from predictors.training.optimised import Optimisation

NUM_HEADS = 3


@pytest.fixture(scope="module")
def target(make_model: Callable[..., PreTrainedModel]) -> Target:
    return Target(make_model("llama"))


def _module(target: Target, own_output: bool) -> MedusaTraining:
    torch.manual_seed(2)
    heads = default_heads(target, NUM_HEADS, own_output=own_output)
    for head in heads.heads:
        torch.nn.init.normal_(head[0].linear.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    return MedusaTraining(heads, target, Optimisation(10, 1e-3))


def _batch() -> EagleBatch:
    """Two texts; the shorter one is padded."""
    token_ids = torch.randint(0, 96, (2, 11), generator=torch.Generator().manual_seed(0))
    is_answer = torch.zeros(2, 11, dtype=torch.bool)
    is_answer[0, 4:] = True
    is_answer[1, 3:8] = True
    return EagleBatch(token_ids, is_answer)


@pytest.mark.parametrize("own_output", [False, True])
def test_the_loss_is_that_of_each_head_on_its_token(target: Target, own_output: bool) -> None:
    module, batch = _module(target, own_output), _batch()
    drafter = module.drafter()
    with torch.no_grad():
        features = module.features(batch)
        found = module.losses(batch, features)
        logits = drafter.logits(features)
    expected = 0.0
    for head in range(NUM_HEADS):
        losses = [
            F.cross_entropy(logits[head, text, place], batch.token_ids[text, place + 2 + head])
            for text in range(2)
            for place in range(11 - 2 - head)
            if batch.is_answer[text, place + 1] and batch.is_answer[text, place + 2 + head]
        ]
        expected += 0.8**head * float(torch.stack(losses).mean())
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)


def test_untrained_heads_say_the_targets_next_token(target: Target) -> None:
    """Blocks begin as the identity: so every head is right where the text repeats one token."""
    heads = default_heads(target, NUM_HEADS)
    features = torch.randn(1, 5, target.hidden_size)
    for state in heads.states(features):
        torch.testing.assert_close(state, features)


def test_accepted_lengths_are_those_of_live_rounds(target: Target, tmp_path: Path) -> None:
    module = _module(target, own_output=False)
    drafter = module.drafter()
    prompt_ids = [3, 14, 15, 9, 2]
    out = generate(target, drafter, f"chain(length={NUM_HEADS})", prompt_ids, max_new_tokens=40)
    token_ids = torch.tensor([prompt_ids + out.token_ids])
    batch = EagleBatch(token_ids, torch.ones_like(token_ids, dtype=torch.bool))
    with torch.no_grad():
        lengths = module.accepted_lengths(batch, module.features(batch))[0]
    pair = len(prompt_ids) - 1  # that of the last feature of the prompt with the first token
    for done in out.rounds[:-1]:
        assert int(lengths[pair]) == done.num_accepted
        pair += done.num_emitted
    drafter.save_pretrained(tmp_path)
    loaded = MedusaDrafter.from_pretrained(str(tmp_path), target)
    torch.testing.assert_close(
        loaded.logits(torch.ones(2, target.hidden_size)),
        drafter.logits(torch.ones(2, target.hidden_size)),
    )


def test_heads_that_share_the_output_layer_are_small(target: Target) -> None:
    """Of SmolLM2's width, three of them in half precision hold less than 2 MB."""
    size = 576
    parameters = NUM_HEADS * (size * size + size)
    assert 2 * parameters < 2_000_000
    shared = sum(weight.numel() for weight in default_heads(target, NUM_HEADS).parameters())
    assert shared == NUM_HEADS * (target.hidden_size**2 + target.hidden_size)
