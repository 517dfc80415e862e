"""Draft vocabularies of EAGLE-1/2 heads: cut when a head is loaded, kept when one is saved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adaeagle import EagleDrafter, Target, generate
from adaeagle.drafters.eagle3_head import Eagle3Head, Eagle3HeadConfig
from adaeagle.drafters.eagle_head import EagleHead

GOLDEN = Path(__file__).parent.parent.parent / "golden"
HEAD = str(GOLDEN / "rand/eagle_head_l3style")
POLICY = "eagle2(depth=4, width=4, nodes=12)"


@pytest.fixture(scope="module")
def target() -> Target:
    return Target.from_pretrained(str(GOLDEN / "rand/target"))


@pytest.fixture
def ids(target: Target) -> list[int]:
    """Every third token of the target."""
    return list(range(1, target.vocab_size, 3))


@pytest.fixture
def file(ids: list[int], tmp_path: Path) -> Path:
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(ids[::-1]))
    return path


def test_a_cut_head_says_what_the_whole_one_says_of_its_tokens(
    target: Target, file: Path, ids: list[int]
) -> None:
    whole = EagleDrafter.from_pretrained(HEAD, target)
    cut = EagleDrafter.from_pretrained(HEAD, target, draft_vocab=file)
    assert cut.vocab_map is not None
    assert cut.vocab_map.tolist() == ids
    states = torch.randn(1, 3, target.hidden_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cut.logits(states), whole.logits(states)[..., ids])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_text_stays_the_targets_and_drafts_stay_inside(
    temperature: float, target: Target, file: Path, ids: list[int]
) -> None:
    """`coupled`: sampled text can be compared token for token."""
    cut = EagleDrafter.from_pretrained(HEAD, target, draft_vocab=file)
    settings: dict[str, Any] = {
        "max_new_tokens": 24, "temperature": temperature, "sampling": "coupled", "seed": 3,
    }  # fmt: skip
    plain = generate(target, None, "vanilla", [1, 2, 3], **settings)
    drafted = generate(target, cut, POLICY, [1, 2, 3], **settings)
    assert drafted.token_ids == plain.token_ids
    assert any(token not in ids for token in plain.token_ids)


def test_a_trained_vocabulary_is_saved_with_the_head(
    target: Target, ids: list[int], tmp_path: Path
) -> None:
    config = EagleDrafter.from_pretrained(HEAD, target).head.config
    head = EagleHead(replace(config, draft_vocab_size=len(ids)))  # type: ignore[arg-type]
    head.set_vocab(torch.tensor(ids))
    EagleDrafter(head, target).save_pretrained(tmp_path)
    loaded = EagleDrafter.from_pretrained(str(tmp_path), target)
    assert isinstance(loaded.head, EagleHead)
    assert loaded.vocab_map is not None
    assert loaded.vocab_map.tolist() == ids
    assert json.loads((tmp_path / "config.json").read_text())["draft_vocab_size"] == len(ids)
    smaller = EagleDrafter(loaded.head, target, draft_vocab=torch.tensor(ids[:5]))
    assert smaller.vocab_map is not None
    assert smaller.vocab_map.tolist() == ids[:5]
    with pytest.raises(ValueError, match="must lie within the vocabulary"):
        EagleDrafter(loaded.head, target, draft_vocab=torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "must be JSON"),
        ("{}", "must hold a list of token ids"),
        ("[]", "must hold a list of token ids"),
        ("[1, 2.5]", "must hold a list of token ids"),
        ("[1, 1]", "1 of them distinct"),
        ("[1, 1000000]", "target ids must be in"),
        ("[-1, 2]", "target ids must be in"),
    ],
)
def test_files_that_hold_no_vocabulary(
    content: str, reason: str, target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "ids.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        EagleDrafter.from_pretrained(HEAD, target, draft_vocab=path)


def test_an_eagle3_head_keeps_its_own() -> None:
    target = Target.from_pretrained(str(GOLDEN / "rand/target"))
    config = EagleDrafter.from_pretrained(HEAD, target).head.config
    shared = {name: getattr(config, name) for name in (
        "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
        "vocab_size", "rms_norm_eps", "hidden_act", "rope_theta", "qkv_bias",
    )}  # fmt: skip
    head = Eagle3Head(
        Eagle3HeadConfig(
            **shared,
            head_dim=config.hidden_size // config.num_attention_heads,
            draft_vocab_size=config.vocab_size,
            target_hidden_size=config.hidden_size,
        )
    )
    with pytest.raises(ValueError, match="must be None for a head with an output layer"):
        EagleDrafter(head, target, draft_vocab=torch.tensor([1, 2]))


@pytest.mark.parametrize("size", [0, 10**9])
def test_sizes_out_of_range(size: int, target: Target) -> None:
    config = EagleDrafter.from_pretrained(HEAD, target).head.config
    with pytest.raises(ValueError, match=r"draft_vocab_size must be in 1\.\."):
        EagleHead(replace(config, draft_vocab_size=size))  # type: ignore[arg-type]
