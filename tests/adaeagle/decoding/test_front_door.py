"""What users of `transformers` pass and expect: prompts of every form, texts, stop strings."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from adaeagle import EagleDrafter, Target, generate, generate_batch, get_policy, stream
from adaeagle.decoding.texts import GrowingText

QUESTION = [{"role": "user", "content": "List all files"}]


@pytest.fixture(scope="module")
def target() -> Target:
    return Target.from_pretrained("mini")


@pytest.fixture(scope="module")
def drafter(target: Target) -> EagleDrafter:
    return EagleDrafter.from_pretrained("mini", target)


def test_every_form_of_a_prompt_is_the_same_text(target: Target) -> None:
    ids = target.encode_chat(QUESTION)
    assert ids == target.encode_chat("List all files")
    row = torch.tensor([ids])
    padded = {
        "input_ids": torch.tensor([[3, 3, *ids]]),
        "attention_mask": torch.tensor([[0, 0, *[1] * len(ids)]]),
    }
    forms: list[Any] = [
        ids, tuple(ids), row, row[0], [ids], np.array(ids), QUESTION,
        BatchEncoding({"input_ids": row}), BatchEncoding({"input_ids": [ids]}), padded,
    ]  # fmt: skip
    expected = generate(target, None, "vanilla", ids, max_new_tokens=3).token_ids
    found = generate_batch(target, None, "vanilla", forms, max_new_tokens=3, seed=[0] * len(forms))
    assert [each.token_ids for each in found] == [expected] * len(forms)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("List all files", r"got a text: pass target\.encode_chat\('List all files'\)"),
        ([[1, 2], [3]], r"must be one prompt, got 2: see adaeagle\.generate_batch"),
        (["a", "b"], r"must be whole numbers, got \['a', 'b'\]"),
        ([1.5], "must be whole numbers"),
        (7, "must be a list or tensor of token ids, got 7"),
        ({"ids": [1]}, "must be a list or tensor of token ids, got None"),
        (torch.ones(2, 3, dtype=torch.int64), "must be one prompt, got 2"),
        ([], "at least one token"),
        ([{"role": "user"}], "a message must have role and content"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(
    prompt: Any, message: str, target: Target
) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        generate(target, None, "vanilla", prompt)
    assert "\n" not in str(caught.value)


def test_arguments_in_each_others_place(target: Target, drafter: EagleDrafter) -> None:
    policy: Any = get_policy("vanilla")
    swapped: list[tuple[Any, Any, Any]] = [
        (drafter, target, policy),
        ("mini", drafter, policy),
        (target, "mini", policy),
        (target, policy, drafter),
        (target, None, drafter),
    ]
    for arguments in swapped:
        with pytest.raises(TypeError, match=r"must (be|come from) "):
            generate(*arguments, [1, 2])
    with pytest.raises(TypeError, match="prompts must be a list of prompts"):
        generate_batch(target, None, "vanilla", "List all files")


def test_a_result_says_what_happened(target: Target, drafter: EagleDrafter) -> None:
    out = generate(target, drafter, "chain(length=3)", QUESTION, max_new_tokens=20)
    assert target.tokenizer is not None
    assert out.text == target.tokenizer.decode(out.token_ids, skip_special_tokens=True)
    assert out.tokens_per_second == len(out.token_ids) / out.seconds
    assert out.tokens_per_round == (len(out.token_ids) - 1) / len(out.rounds)
    accepted = sum(each.num_accepted for each in out.rounds)
    assert out.acceptance_rate == accepted / sum(each.num_verified for each in out.rounds)
    assert repr(out).startswith("Generation(text=")
    assert "token_ids" not in repr(out)
    pieces = list(stream(target, drafter, "chain(length=3)", QUESTION, max_new_tokens=20))
    assert "".join(piece.text or "" for piece in pieces) == out.text
    plain = generate(target, None, "vanilla", QUESTION, max_new_tokens=1)
    assert math.isnan(plain.acceptance_rate)


def test_everything_has_a_line_and_a_table(target: Target, drafter: EagleDrafter) -> None:
    out = generate(target, None, "vanilla", QUESTION, max_new_tokens=2)
    policy = get_policy("confidence(threshold=0.4)")
    for shown, words in (
        (target, "Target(name='mini', type=llama"),
        (drafter, "EagleDrafter(name='mini', kind=eagle"),
        (policy, "Chain("),
        (out, "tokens=2"),
    ):
        assert words in repr(shown)
        table = shown._repr_html_()
        assert table.startswith("<table>")
        assert "<EagleHead" not in table


def test_equal_policies_are_equal() -> None:
    one = get_policy("eagle2(depth=6, stop=confidence(threshold=0.4))")
    other = get_policy("eagle2(stop=confidence(threshold=0.4), depth=6)")
    assert one == other
    assert hash(one) == hash(other)
    assert one != get_policy("eagle2(depth=5, stop=confidence(threshold=0.4))")
    assert one != get_policy("eagle2(depth=6, stop=confidence(threshold=0.5))")
    assert get_policy("vanilla") != get_policy("chain")
    assert get_policy(get_policy("chain(length=2)")) == get_policy("chain(length=2)")


@pytest.mark.parametrize("policy", ["vanilla", "chain(length=5)", "eagle2(depth=4, width=4)"])
def test_a_stop_string_ends_a_text_where_plain_decoding_would(
    policy: str, target: Target, drafter: EagleDrafter
) -> None:
    whole = generate(target, None, "vanilla", QUESTION, max_new_tokens=30, stop_token_ids=[])
    assert whole.text is not None
    assert target.tokenizer is not None
    cut = whole.text[8:11]  # within the text, likely across tokens
    out = generate(
        target, drafter, policy, QUESTION, max_new_tokens=30, stop_token_ids=[], stop=["§", cut]
    )
    text = out.text or ""
    assert cut in text
    assert cut not in target.tokenizer.decode(out.token_ids[:-1])
    assert whole.token_ids[: len(out.token_ids)] == out.token_ids
    assert len(out.token_ids) < len(whole.token_ids)


@pytest.mark.parametrize("stop", ["text", [""], [3]])
def test_stop_strings_are_checked(stop: Any, target: Target) -> None:
    with pytest.raises(ValueError, match="stop must be a list of texts that are not empty"):
        generate(target, None, "vanilla", QUESTION, stop=stop)


class _Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool) -> str:
        return bytes(token_ids).decode("utf-8", "replace")


def test_half_a_character_waits_and_is_not_lost() -> None:
    text = GrowingText(_Bytes())  # type: ignore[arg-type]
    tokens = [*"aü€".encode(), 0xE2, 0x82]
    pieces = [text.add([token], is_last=False) for token in tokens[:-1]]
    assert [piece for piece in pieces if piece] == ["a", "ü", "€"]
    assert text.add(tokens[-1:], is_last=True) == "\ufffd"
