"""The training-time test against chains drafted one by one, and the training that uses it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from adaeagle import EagleDrafter, Target
from adaeagle.drafters.eagle3_head import Eagle3Head
from experiments.runs.train_head import TrainHeadSettings, train_head
from predictors.data.features import target_features
from predictors.draft_models.data import EagleBatch, frequent_tokens
from predictors.draft_models.eagle3 import (
    Eagle3Training,
    begin_as_target,
    default_head3_config,
)
from predictors.draft_models.unrolled import Roots
from predictors.training.optimised import Optimisation

VOCAB = 96
UNROLL = 4


@pytest.fixture(scope="module")
def target(make_model: Callable[..., PreTrainedModel]) -> Target:
    return Target(make_model("llama", num_layers=8))


def _module(target: Target, draft_vocab_size: int, **arguments: Any) -> Eagle3Training:
    torch.manual_seed(1)
    head = Eagle3Head(default_head3_config(target, draft_vocab_size))
    if head.has_draft_vocab:
        head.set_vocab(torch.randperm(VOCAB)[:draft_vocab_size].sort().values)
    return Eagle3Training(head, target, Optimisation(10, 5e-5), unroll=UNROLL, **arguments)


def _batch() -> EagleBatch:
    """Two texts; the shorter one is padded."""
    token_ids = torch.randint(0, VOCAB, (2, 11), generator=torch.Generator().manual_seed(0))
    is_answer = torch.zeros(2, 11, dtype=torch.bool)
    is_answer[0, 4:] = True
    is_answer[1, 3:8] = True
    token_ids[1, 8:] = 0
    return EagleBatch(token_ids, is_answer)


def _slow_loss(module: Eagle3Training, batch: EagleBatch) -> tuple[float, list[float]]:
    """Drafts a chain from every pair that reads an answer's token, fed the text's own tokens."""
    target = module.target
    drafter = EagleDrafter(module.head, target)
    vocab = drafter.vocab_map
    losses: list[list[float]] = [[] for _ in range(module.unroll)]
    hits: list[list[float]] = [[] for _ in range(module.unroll)]
    features = target_features(target, batch.token_ids, Eagle3Training.feature_layers(target))
    for text, answer, states in zip(batch.token_ids, batch.is_answer, features, strict=True):
        target_logits = target.logits(states[:, -target.hidden_size :])
        for pair in (answer[1:]).nonzero().flatten().tolist():
            session = drafter.begin([[int(text[0])]], 64)
            for step in range(min(module.unroll, len(text) - 1 - pair)):
                place = pair + 1 + step  # of the token read
                if step == 0:
                    true = states[None, : pair + 1, : -target.hidden_size]
                    proposal = session.catch_up(text[None, 1 : pair + 2], true, [pair + 1])
                else:
                    proposal = session.extend(
                        text[None, place : place + 1], torch.tensor([[step - 1]])
                    )
                if not answer[place]:
                    continue
                logits = proposal.logits
                assert logits is not None
                said = int(target_logits[place].argmax())
                drafted = int(logits[0, 0].argmax())
                hits[step].append(float(said == (drafted if vocab is None else vocab[drafted])))
                if vocab is not None and said not in vocab.tolist():
                    continue
                distribution = (
                    target_logits[place] if vocab is None else target_logits[place, vocab]
                )
                loss = -(distribution.softmax(0) * logits[0, 0].log_softmax(0)).sum()
                losses[step].append(float(loss))
    means = [sum(step) / max(1, len(step)) for step in losses]
    total = sum(module.decay**step * mean for step, mean in enumerate(means))
    return total, [sum(step) / len(step) for step in hits]


@pytest.mark.parametrize("draft_vocab_size", [40, VOCAB])
def test_the_loss_is_that_of_drafted_chains(target: Target, draft_vocab_size: int) -> None:
    module, batch = _module(target, draft_vocab_size), _batch()
    features = target_features(target, batch.token_ids, Eagle3Training.feature_layers(target))
    with torch.no_grad():
        found = module.losses(batch, features)
        expected, expected_agreements = _slow_loss(module, batch)
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)
    agreements = [float(value) for name, value in found.items() if name.startswith("agreement")]
    assert agreements == pytest.approx(expected_agreements)


def test_the_gradient_flows_through_every_step(target: Target) -> None:
    """The last step's loss alone moves what the first one read."""
    module, batch = _module(target, 40), _batch()
    features = target_features(target, batch.token_ids, Eagle3Training.feature_layers(target))
    features = features[..., : -target.hidden_size].requires_grad_()
    roots = Roots.of(batch.is_answer)
    assert roots.pairs.tolist() == [3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6]
    assert roots.texts.tolist() == [0] * 7 + [1] * 5
    first = module.head.fuse(features)
    *_, last_states = module.states(batch.token_ids, first, roots, UNROLL)
    last_states[0].sum().backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    assert (features.grad[0] != 0).any(-1).tolist() == [True] * 4 + [False] * 7
    assert not features.grad[1].any()


def test_stored_features_are_those_of_the_step(target: Target) -> None:
    module, batch = _module(target, VOCAB), _batch()
    stored = target_features(target, batch.token_ids, Eagle3Training.feature_layers(target))
    again = EagleBatch(batch.token_ids, batch.is_answer, stored)
    torch.testing.assert_close(module.features(batch), module.features(again))


def test_the_draft_vocabulary_is_the_most_frequent_of_the_answers() -> None:
    texts = [
        EagleBatch(torch.tensor([7, 7, 7, 5, 3]), torch.tensor([0, 0, 0, 1, 1]).bool()),
        EagleBatch(torch.tensor([1, 9, 5]), torch.tensor([0, 1, 1]).bool()),
    ]
    assert frequent_tokens(texts, 12, 2).tolist() == [3, 5]
    assert frequent_tokens(texts, 12, 3).tolist() == [3, 5, 9]


@pytest.mark.parametrize("draft_vocab_size", [40, VOCAB])
def test_the_output_layer_begins_as_the_targets(target: Target, draft_vocab_size: int) -> None:
    head = _module(target, draft_vocab_size).head
    begin_as_target(head, target)
    ids = torch.arange(VOCAB) if head.vocab_map is None else head.vocab_map
    states = torch.randn(3, target.hidden_size)
    assert head.lm_head is not None
    torch.testing.assert_close(head.lm_head(states), target.logits(states)[:, ids])


def test_wrong_arguments_are_refused(
    target: Target, make_model: Callable[..., PreTrainedModel]
) -> None:
    with pytest.raises(ValueError, match=r"rollout must be >= 1, got 0"):
        _module(target, VOCAB, rollout=0)
    with pytest.raises(ValueError, match=r"decay must be > 0, got 0"):
        _module(target, VOCAB, decay=0)
    with pytest.raises(ValueError, match=r"draft_vocab_size must be in 1\.\.96, got 97"):
        default_head3_config(target, 97)
    with pytest.raises(ValueError, match=r"num_hidden_layers >= 7, got 4"):
        Eagle3Training.feature_layers(Target(make_model("llama")))


@pytest.fixture(scope="module")
def deep_chat_folder(chat_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny chat target, deep enough for three feature layers."""
    folder = tmp_path_factory.mktemp("deep")
    AutoTokenizer.from_pretrained(chat_folder).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(chat_folder, num_hidden_layers=7)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
@pytest.mark.parametrize("store_features", [False, True])
def test_a_head_is_trained_saved_and_loaded(
    deep_chat_folder: Path, tmp_path: Path, store_features: bool
) -> None:
    data = tmp_path / "prompts.jsonl"
    words = ["cat", "mat", "the", "1", "2", "and", "on", "sat", "counted", "3"]
    lines = [f'{{"prompt": "{one} {other}"}}\n' for one in words for other in words[:2]]
    data.write_text("".join(lines), encoding="utf-8")
    result = train_head(
        TrainHeadSettings(
            target=str(deep_chat_folder),
            data=data,
            out=tmp_path / "out",
            kind="eagle3",
            max_steps=30,
            learning_rate=3e-3,
            window=64,
            max_new_tokens=24,
            draft_vocab_size=100,
            store_features=store_features,
            checkpoint_every=30,
            accelerator="cpu",
        )
    )
    target = Target.from_pretrained(str(deep_chat_folder))
    drafter = EagleDrafter.from_pretrained(result["model"], target)
    assert isinstance(drafter.head, Eagle3Head)
    assert drafter.vocab_map is not None
    assert len(drafter.vocab_map) == 100
    assert result["steps"] == 30
    assert result["skipped_steps"] == 0
