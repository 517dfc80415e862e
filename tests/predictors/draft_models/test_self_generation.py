"""The target's own answers are what plain decoding says, and survive a kill."""

from pathlib import Path

import pytest
import torch

import adaeagle
from adaeagle import Target
from adaeagle.data.conversations import Message
from predictors.data.features import collect_features
from predictors.draft_models.data import SelfGeneratedDataset, collate
from predictors.draft_models.self_generation import SelfGenerationSettings, collect_self_generated

SETTINGS = SelfGenerationSettings(
    max_new_tokens=12, max_prompt_tokens=100, max_turns=2, batch_size=3, shard_size=3
)


@pytest.fixture(scope="module")
def target(chat_folder: Path) -> Target:
    return Target.from_pretrained(str(chat_folder))


@pytest.fixture(scope="module")
def conversations() -> list[list[Message]]:
    words = ["cat", "the mat", "on the cat sat", "1 2", "counted and counted"]
    asked = [[{"role": "user", "content": word}] for word in words]
    asked[1].append({"role": "user", "content": "and then"})
    return asked


@pytest.fixture(scope="module")
def shards(
    target: Target, conversations: list[list[Message]], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    folder = tmp_path_factory.mktemp("own")
    return collect_self_generated(target, conversations, folder, SETTINGS)


def test_answers_are_plain_greedy_decoding(target: Target, shards: list[Path]) -> None:
    dataset = SelfGeneratedDataset(shards, window=256)
    assert len(dataset) == 6  # five conversations, one of them of two turns
    for text in (dataset[i] for i in range(len(dataset))):
        num_prompt = int((~text.is_answer).sum())
        prompt_ids = text.token_ids[:num_prompt].tolist()
        plain = adaeagle.generate(target, None, "vanilla", prompt_ids, max_new_tokens=12)
        assert text.token_ids[num_prompt:].tolist() == plain.token_ids


def test_the_second_turn_reads_the_first_answer(target: Target, shards: list[Path]) -> None:
    dataset = SelfGeneratedDataset(shards, window=256)
    first, second = (dataset[i] for i, text in enumerate(dataset.texts) if text.conversation == 1)
    assert target.tokenizer is not None
    answer = target.tokenizer.decode(first.token_ids[first.is_answer], skip_special_tokens=True)
    assert str(answer) in str(target.tokenizer.decode(second.token_ids[~second.is_answer]))


def test_a_killed_collection_goes_on(
    target: Target, conversations: list[list[Message]], shards: list[Path], tmp_path: Path
) -> None:
    again = collect_self_generated(target, conversations, tmp_path, SETTINGS)
    before = again[0].stat().st_mtime_ns
    again[1].unlink()
    collect_self_generated(target, conversations, tmp_path, SETTINGS)
    assert again[0].stat().st_mtime_ns == before
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in shards]


def test_processes_share_the_shards(
    target: Target, conversations: list[list[Message]], tmp_path: Path
) -> None:
    paths = collect_self_generated(target, conversations, tmp_path, SETTINGS, rank=1, world_size=2)
    assert [path.exists() for path in paths] == [False, True]


def test_text_of_other_settings_is_refused(
    target: Target, conversations: list[list[Message]], shards: list[Path]
) -> None:
    other = SelfGenerationSettings(max_new_tokens=13, max_prompt_tokens=100)
    with pytest.raises(ValueError, match=r"max_new_tokens was 12, is 13"):
        collect_self_generated(target, conversations, shards[0].parent, other)


def test_stored_features_are_the_targets(
    target: Target, shards: list[Path], tmp_path: Path
) -> None:
    collect_features(target, shards, tmp_path, batch_size=2)
    dataset = SelfGeneratedDataset(shards, window=20, features=tmp_path)
    batch = collate([dataset[0], dataset[3]])
    assert batch.features is not None
    for row in (0, 3):
        text = dataset[row]
        with torch.no_grad():
            true = target.model.base_model(text.token_ids[None]).last_hidden_state[0]
        assert text.features is not None
        torch.testing.assert_close(text.features, true)


def test_sampled_answers_depend_on_the_seed(
    target: Target, conversations: list[list[Message]], tmp_path: Path
) -> None:
    texts = [
        collect_self_generated(
            target,
            conversations,
            tmp_path / f"{number}",
            SelfGenerationSettings(
                max_new_tokens=12, max_prompt_tokens=100, temperature=1.0, seed=seed
            ),
        )[0].read_bytes()
        for number, seed in enumerate((1, 1, 2))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_answers_keep_to_the_generation_config(
    chat_folder: Path, conversations: list[list[Message]], tmp_path: Path
) -> None:
    """What a penalty forbids the target to say, no head is trained on."""
    target, penalised = (Target.from_pretrained(str(chat_folder)) for _ in range(2))
    assert penalised.model.generation_config is not None
    penalised.model.generation_config.repetition_penalty = 1.3
    texts = []
    for number, model in enumerate((target, penalised)):
        folder = tmp_path / str(number)
        shards = collect_self_generated(model, conversations[:1], folder, SETTINGS)
        text = SelfGeneratedDataset(shards, window=256)[0]
        texts.append(text.token_ids[text.is_answer].tolist())
        prompt_ids = text.token_ids[~text.is_answer].unsqueeze(0)
        expected = model.model.generate(  # type: ignore[operator]
            prompt_ids, max_new_tokens=SETTINGS.max_new_tokens, do_sample=False
        )
        assert texts[-1] == expected[0, prompt_ids.shape[1] :].tolist()
    assert texts[0] != texts[1]
