"""The head's losses, its training, and what validation says of it."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

import adaeagle
from adaeagle import EagleDrafter, Target
from adaeagle.drafters.eagle_head import EagleHead
from predictors.draft_models.data import EagleBatch, SelfGeneratedDataset, collate, eagle_data
from predictors.draft_models.eagle import EagleTraining, default_head_config
from predictors.draft_models.self_generation import SelfGenerationSettings, collect_self_generated
from predictors.draft_models.unrolled import Roots
from predictors.training.optimised import Optimisation

STEPS = 60


@pytest.fixture(scope="module")
def target(chat_folder: Path) -> Target:
    return Target.from_pretrained(str(chat_folder))


@pytest.fixture(scope="module")
def dataset(target: Target, tmp_path_factory: pytest.TempPathFactory) -> SelfGeneratedDataset:
    words = ["cat", "mat", "the", "1", "2", "and", "on", "sat", "counted", "3"]
    asked = [[{"role": "user", "content": f"{a} {b}"}] for a in words for b in words[:2]]
    settings = SelfGenerationSettings(max_new_tokens=24, max_prompt_tokens=100)
    shards = collect_self_generated(target, asked, tmp_path_factory.mktemp("own"), settings)
    return SelfGeneratedDataset(shards, window=64)


def _module(
    target: Target, num_layers: int = 1, vocab: list[int] | None = None, **arguments: Any
) -> EagleTraining:
    torch.manual_seed(0)
    size = None if vocab is None else len(vocab)
    head = EagleHead(default_head_config(target, num_layers, size))
    if vocab is not None:
        head.set_vocab(torch.tensor(vocab))
    optimisation = Optimisation(STEPS, 3e-3, 0.01, warmup_steps=5)
    return EagleTraining(head, target, optimisation, **arguments)


def _trainer(max_steps: int, folder: Path) -> L.Trainer:
    return L.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=folder,
    )


def test_losses_are_the_published_formula(target: Target) -> None:
    generator = torch.Generator().manual_seed(3)
    true = torch.randn(4, 32, generator=generator)
    predicted = torch.randn(4, 32, generator=generator)
    module = _module(target)
    is_known = torch.tensor([True, True, False, True])
    found = module.row_losses(predicted, true, target.logits(true), is_known)
    feature_loss = token_loss = agreement = 0.0
    for row in range(4):
        difference = (predicted[row] - true[row]).abs()
        smooth = torch.where(difference < 1, difference**2 / 2, difference - 0.5)
        feature_loss += float(smooth.mean()) / 4
        if is_known[row]:
            said, drafted = target.logits(true[row]), target.logits(predicted[row])
            token_loss -= float((said.softmax(-1) * drafted.log_softmax(-1)).sum()) / 3
            agreement += float(said.argmax() == drafted.argmax()) / 4
    expected = torch.tensor([feature_loss, token_loss, agreement])
    torch.testing.assert_close(torch.stack(found).detach(), expected)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_every_step_is_what_a_draft_from_its_pair_predicts(
    target: Target, dataset: SelfGeneratedDataset, num_layers: int
) -> None:
    """Step i of a root against a session's chain of the text's own tokens."""
    module = _module(target, num_layers=num_layers, unroll=3)
    batch = collate([dataset[0], dataset[1]])
    features = module.features(batch)
    roots = Roots.of(batch.is_answer)
    drafter = EagleDrafter(module.head, target)
    with torch.no_grad():
        steps = [target.logits(s) for s in module.states(batch.token_ids, features, roots, 3)]
        for row in range(0, len(roots.texts), 5):
            text, pair = int(roots.texts[row]), int(roots.pairs[row])
            ids = dataset[text].token_ids
            session = drafter.begin([ids[: pair + 1].tolist()], 128)
            proposal = session.catch_up(
                ids[None, 1 : pair + 2], features[text : text + 1, : pair + 1], [pair + 1]
            )
            for step in range(3):
                assert proposal.logits is not None
                torch.testing.assert_close(proposal.logits[0, 0], steps[step][row])
                if pair + 2 + step >= len(ids):
                    break
                token = ids[None, pair + 2 + step : pair + 3 + step]
                proposal = session.extend(token, torch.tensor([[step]]))


def test_a_draft_vocabulary_changes_the_token_loss_alone(
    target: Target, dataset: SelfGeneratedDataset
) -> None:
    """Rows whose next token the vocabulary lacks have a feature loss and no token loss."""
    batch = collate([dataset[0]])
    said = set(batch.token_ids[batch.is_answer].tolist())
    kept = [token for token in range(target.vocab_size) if token not in said]
    all_tokens, none_known = _module(target), _module(target, vocab=kept)
    with torch.no_grad():
        features = all_tokens.features(batch)
        whole, cut = (each.eval().losses(batch, features) for each in (all_tokens, none_known))
    torch.testing.assert_close(cut["feature_loss"], whole["feature_loss"])
    assert whole["token_loss"] > 0
    # The last token of the text has none after it: that row alone counts.
    assert int(none_known._is_known(batch).sum() - (~batch.is_answer).sum()) <= 1
    assert float(cut["agreement"]) <= 1 / len(batch.token_ids[batch.is_answer])


def _mean(module: EagleTraining, dataset: SelfGeneratedDataset) -> tuple[float, float]:
    batch = collate([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        losses = module.eval().losses(batch, module.features(batch))
    module.train()
    return float(losses["loss"]), float(losses["agreement"])


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_training_lowers_the_loss_and_raises_agreement(
    target: Target, dataset: SelfGeneratedDataset, tmp_path: Path
) -> None:
    module = _module(target)
    loss, agreement = _mean(module, dataset)
    data = eagle_data(dataset, batch_size=4, max_steps=STEPS)
    _trainer(STEPS, tmp_path).fit(module, datamodule=data)
    trained_loss, trained_agreement = _mean(module, dataset)
    assert trained_loss < 0.8 * loss
    assert trained_agreement > agreement + 0.2


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
def test_a_killed_run_ends_at_the_same_weights(
    target: Target, dataset: SelfGeneratedDataset, tmp_path: Path
) -> None:
    def data() -> L.LightningDataModule:
        return eagle_data(dataset, batch_size=4, max_steps=12)

    whole = _module(target)
    _trainer(12, tmp_path).fit(whole, datamodule=data())
    killed = _trainer(5, tmp_path)
    killed.fit(_module(target), datamodule=data())
    killed.save_checkpoint(tmp_path / "last.ckpt")
    resumed = _module(target)
    trainer = _trainer(12, tmp_path)
    trainer.fit(resumed, datamodule=data(), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 12
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert not any(name.startswith("target") for name in whole.state_dict())


def test_accepted_lengths_are_those_of_live_chains(
    target: Target, dataset: SelfGeneratedDataset
) -> None:
    """Each position's chain, drafted by a session, against the text."""
    module = _module(target, rollout=3)
    with torch.no_grad():  # passes the feature on, so that some drafts are right
        module.head.fc.weight[:, 32:] = torch.eye(32)
    drafter, text = EagleDrafter(module.head, target), dataset[0]
    batch = collate([text])
    with torch.no_grad():
        features = module.features(batch)
        found = module.accepted_lengths(batch, features)[0]
        pairs = batch.is_answer[0, 1:].nonzero().flatten().tolist()
        expected = [_chain(drafter, text, features, pair, 3) for pair in pairs]
    assert found[pairs].tolist() == expected
    assert max(expected) > 0


def _chain(
    drafter: EagleDrafter, text: EagleBatch, features: Tensor, pair: int, length: int
) -> int:
    session = drafter.begin([text.token_ids[: pair + 1].tolist()], 128)
    read = text.token_ids[None, 1 : pair + 2]
    logits = session.catch_up(read, features[:, : pair + 1], [pair + 1]).logits
    for depth in range(length):
        assert logits is not None
        token = logits[:, -1:].argmax(-1)
        place = pair + 2 + depth
        if place >= len(text.token_ids) or int(token) != int(text.token_ids[place]):
            return depth
        if depth + 1 < length:
            logits = session.extend(token, torch.tensor([[depth]])).logits
    return length


def test_a_saved_head_drafts_alike(
    target: Target, dataset: SelfGeneratedDataset, tmp_path: Path
) -> None:
    head = EagleHead(default_head_config(target))
    saved = EagleDrafter(head, target)
    saved.save_pretrained(tmp_path)
    loaded = EagleDrafter.from_pretrained(str(tmp_path), target)
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, loaded.head.state_dict()[name])
    prompt_ids = dataset[0].token_ids[:8].tolist()
    one, two = (
        adaeagle.generate(target, drafter, "chain(length=3)", prompt_ids, max_new_tokens=16)
        for drafter in (saved, loaded)
    )
    assert one.token_ids == two.token_ids
    assert [r.num_accepted for r in one.rounds] == [r.num_accepted for r in two.rounds]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("noise", -0.1, ">= 0"),
        ("token_weight", -1.0, ">= 0"),
        ("unroll", 0, ">= 1"),
        ("rollout", 0, ">= 1"),
    ],
)
def test_arguments_out_of_range(target: Target, name: str, value: float, rule: str) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value}"):
        _module(target, **arguments)
