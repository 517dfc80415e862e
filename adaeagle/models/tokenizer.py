"""A target's tokenizer: how it is loaded, and how a conversation becomes token ids."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

FILES = ("tokenizer", "vocab", "spiece", "sentencepiece")
"""What the names of a tokenizer's files begin with."""

Messages = Sequence[Mapping[str, Any]]


def load_tokenizer(
    folder: str, revision: str | None, gguf: dict[str, str], chat_template: str | None
) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a folder or an id; None of a folder without a tokenizer's files.

    Args:
        folder: or a Hugging Face id.
        revision: of it.
        gguf: see `gguf_arguments`.
        chat_template: in place of its own: the template, or a file that holds it.

    Raises:
        ValueError: it cannot be loaded.
    """
    path = Path(folder)
    if path.is_dir() and not gguf and not any(map(_is_tokenizers, path.iterdir())):
        if chat_template is not None:
            raise ValueError(f"chat_template must be None, {folder} has no tokenizer")
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, revision=revision, trust_remote_code=False, **gguf
        )
    except Exception as error:  # the tokenizers library raises nothing narrower
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the tokenizer of {folder} must be readable, got: {reason}") from error
    if chat_template is not None:
        is_text = "{" in chat_template
        tokenizer.chat_template = chat_template if is_text else Path(chat_template).read_text()
    return tokenizer


def _is_tokenizers(file: Path) -> bool:
    return file.name.startswith(FILES)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: str | Messages,
    end_ids: Collection[int],
    template_arguments: Mapping[str, Any],
) -> list[int]:
    """Token ids of a conversation that the assistant is to continue; see `Target.encode_chat`.

    Args:
        tokenizer: with or without a chat template.
        messages: the conversation; a text is one message of the user's.
        end_ids: tokens that end a text, which a prompt does not end with.
        template_arguments: given to the template.

    Raises:
        ValueError: a message lacks its role or content, or the template refuses them.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    for message in messages:
        if not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(f"a message must have role and content, both texts, got {message}")
    if tokenizer.chat_template is None:
        ids = list(tokenizer("\n\n".join(message["content"] for message in messages))["input_ids"])
        while len(ids) > 1 and ids[-1] in end_ids:  # of a tokenizer that ends every text
            ids.pop()
        return ids
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            **template_arguments,
        )
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the messages: {error}") from error
    # The template writes its own begin token.
    return list(tokenizer(str(text), add_special_tokens=False)["input_ids"])
