"""The target: tree forwards are plain forwards of every path, and what loading refuses."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adaeagle import DraftTree, Target
from adaeagle.data.bundled import BUNDLED
from adaeagle.tree import Level, ancestors

MakePrompt = Callable[[int, int], list[int]]
GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def target(make_model: Callable[..., Any]) -> Target:
    return Target(make_model("llama"), name="tiny")


def bushy_tree(num_levels: int = 3) -> DraftTree:
    """Random tokens; siblings' children lie apart, so that paths are not runs of rows."""
    generator = torch.Generator().manual_seed(0)
    tree = DraftTree.empty(1, "cpu")
    frontier = torch.tensor([[-1]])
    for _ in range(num_levels):
        shape = (1, frontier.shape[1], 3)
        token_ids = torch.rand(*shape[:2], 96, generator=generator).topk(3).indices
        tree = tree.grow(Level(frontier, token_ids, torch.zeros(shape)))
        frontier = torch.tensor([[len(tree) - 2, len(tree) - 1]])
    return tree


def path_to(tree: DraftTree, row: int) -> list[int]:
    """Rows from the root's child to `row`."""
    path: list[int] = []
    while row >= 0:
        path.insert(0, row)
        row = int(tree.parents[0, row])
    return path


@pytest.mark.parametrize(
    ("family", "attention"),
    [("llama", "sdpa"), ("llama", "eager"), ("qwen2", "sdpa"), ("qwen3", "sdpa")],
)
def test_a_tree_forward_is_every_path_s(
    family: str, attention: str, make_model: Callable[..., Any], make_prompt: MakePrompt
) -> None:
    """Before and after the commit of a path that is no run of rows."""
    target = Target(make_model(family, attention=attention))
    prompt = make_prompt(6, 0)
    session = target.begin(1, 8)
    text = list(prompt)
    with torch.inference_mode():
        features, logits = session.prefill(prompt)
        whole = target.model(torch.tensor([text]), output_hidden_states=True)
        torch.testing.assert_close(features.last, whole.hidden_states[-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits, whole.logits[:, -1], atol=1e-4, rtol=1e-4)
        tree = bushy_tree(3)
        for accepted in (path_to(tree, 10), path_to(tree, 0), [], path_to(tree, 8)):
            root = torch.tensor([7])
            _, logits = session.verify(root, tree, ancestors(tree))
            for row in (-1, *range(len(tree))):
                tokens = [int(tree.token_ids[0, node]) for node in path_to(tree, row)]
                plain = target.model(torch.tensor([[*text, 7, *tokens]])).logits[0, -1]
                torch.testing.assert_close(logits[0, row + 1], plain, atol=1e-4, rtol=1e-4)
            session.commit([[0, *(row + 1 for row in accepted)]])
            text += [7, *tree.token_ids[0, accepted].tolist()]
            assert session.cache.lengths == [len(text)]
        root = torch.tensor([9])
        empty = DraftTree.empty(1, "cpu")
        _, logits = session.verify(root, empty, ancestors(empty))
        plain = target.model(torch.tensor([[*text, 9]])).logits[0, -1]
        torch.testing.assert_close(logits[0, 0], plain, atol=1e-4, rtol=1e-4)


def test_logits_are_the_output_head_s(target: Target) -> None:
    features = torch.randn(2, 3, target.hidden_size)
    assert target.logits(features).shape == (2, 3, target.vocab_size)


def test_a_session_has_no_say_in_another(target: Target, make_prompt: MakePrompt) -> None:
    with torch.inference_mode():
        alone = target.begin(1, 16).prefill(make_prompt(9, 1))[1]
        first, second = target.begin(1, 16), target.begin(1, 16)
        first.prefill(make_prompt(5, 0))
        torch.testing.assert_close(second.prefill(make_prompt(9, 1))[1], alone)
        assert (first.cache.lengths, second.cache.lengths) == ([5], [9])


@pytest.mark.parametrize(
    ("own", "expected"), [(None, ()), (7, (7,)), ([7, 9], (7, 9))], ids=["none", "one", "two"]
)
def test_eos(
    own: int | list[int] | None, expected: tuple[int, ...], make_model: Callable[..., Any]
) -> None:
    model = copy.deepcopy(make_model("llama"))
    model.generation_config.eos_token_id = own
    assert Target(model).eos_token_ids == expected
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = own
    assert Target(model).eos_token_ids == expected


@pytest.mark.parametrize("max_length", [0, 1, 513])
def test_context_is_checked(max_length: int, make_model: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=rf"max_length must be in 2\.\.512, got {max_length}"):
        Target(make_model("llama"), max_length=max_length)


def test_an_empty_prompt_is_refused(target: Target) -> None:
    with pytest.raises(ValueError, match="prompt_ids must hold at least one token, got none"):
        target.begin(1, 8).prefill([])


def test_a_folder_without_a_tokenizer() -> None:
    target = Target.from_pretrained(str(GOLDEN / "rand/target"))
    assert target.tokenizer is None
    assert target.dtype == torch.float32
    assert (target.vocab_size, target.hidden_size, target.max_length) == (128, 64, 2048)
    with pytest.raises(ValueError, match=r"encode_chat needs a tokenizer, .*: pass token ids"):
        target.encode_chat([{"role": "user", "content": "hi"}])


def test_dtype_and_length_are_chosen_at_load() -> None:
    target = Target.from_pretrained(
        str(GOLDEN / "rand/target"), dtype=torch.bfloat16, max_length=77
    )
    assert target.dtype == torch.bfloat16
    assert target.max_length == 77


@pytest.fixture
def worded(target: Target) -> Target:
    """A target with a tokenizer of whole words."""
    words = {"<s>": 0, "hello": 1, "there": 2, "you": 3, "me": 4, "?": 5}
    core = Tokenizer(models.WordLevel(words, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=core, bos_token="<s>", unk_token="?")
    return Target(target.model, tokenizer)


def test_chat_without_a_template(worded: Target) -> None:
    messages = [{"role": "user", "content": "hello there"}, {"role": "system", "content": "you"}]
    assert worded.encode_chat(messages) == [1, 2, 3]


def test_chat_with_a_template(worded: Target) -> None:
    assert worded.tokenizer is not None
    worded.tokenizer.chat_template = (
        "<s>{% for m in messages %}you {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}me{% endif %}"
    )
    assert worded.encode_chat([{"role": "user", "content": "hello"}]) == [0, 3, 1, 4]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Target.from_pretrained(str(tmp_path / "nowhere"))


def test_missing_weights_are_not_drawn_at_random(tmp_path: Path) -> None:
    folder = tmp_path / "target"
    shutil.copytree(GOLDEN / "rand/target", folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"must hold every weight, missing .*layers\.1\.mlp\.up"):
        Target.from_pretrained(str(folder))


MINI = BUNDLED / "mini" / "target"


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINI, tmp_path / "model"))


def test_a_tokenizer_that_does_not_load_is_told(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"the tokenizer of .* must be readable, got"):
        Target.from_pretrained(str(folder))


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder, ran = copied(tmp_path), tmp_path / "ran"
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_my.My"}}
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "configuration_my.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with pytest.raises(NotImplementedError, match="brings code of its own, which is never run"):
        Target.from_pretrained(str(folder))
    assert not ran.exists()


def test_a_prompt_does_not_end_with_the_end_token(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "chat_template.jinja").unlink()
    raw = json.loads((folder / "tokenizer.json").read_text())
    end = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    own = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    raw["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [own[0], end],
        "pair": own,
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [3], "tokens": ["<|end|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert Target.from_pretrained(str(folder)).encode_chat("List all files")[-1] != 3


def test_another_chat_template_and_its_arguments(tmp_path: Path) -> None:
    template = "{{ messages[0]['content'] }}{% if loud %}!{% endif %}"
    (tmp_path / "mine.jinja").write_text(template)
    for given in (template, str(tmp_path / "mine.jinja")):
        target = Target.from_pretrained("mini", chat_template=given)
        assert target.tokenizer is not None
        assert target.tokenizer.decode(target.encode_chat("List")) == "List"
        assert target.tokenizer.decode(target.encode_chat("List", loud=True)) == "List!"
    refusing = Target.from_pretrained("mini", chat_template="{{ raise_exception('no') }}")
    with pytest.raises(ValueError, match="the chat template refuses the messages: no"):
        refusing.encode_chat("List")
