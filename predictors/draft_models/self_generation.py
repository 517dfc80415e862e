"""Collects the target's own answers: the text a draft model has to predict.

Source: EAGLE-1/2 train on the answers of a data set; EAGLE-3 (Li et al. 2025,
https://arxiv.org/abs/2503.01840) has the target answer its prompts anew, which this does.

Every turn of a conversation is a text of its own: the prompt as the target reads it, with its
earlier answers, then the answer's very tokens. Texts are written in shards, each whole or absent.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save
from torch import Tensor

from adaeagle import generate_batch
from adaeagle.data.conversations import Message
from adaeagle.data.files import difference, write_whole
from adaeagle.models.fingerprint import fingerprint
from adaeagle.models.target import Target

STDERR = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class SelfGenerationSettings:
    """How the target answers.

    Args:
        max_new_tokens: longest answer.
        max_prompt_tokens: a conversation ends before a prompt longer than this.
        max_turns: answered turns of a conversation.
        temperature: 0 takes the likeliest token.
        batch_size: prompts answered side by side.
        shard_size: conversations a file.
        seed: of sampling.
    """

    max_new_tokens: int = 256
    max_prompt_tokens: int = 1024
    max_turns: int = 2
    temperature: float = 0.0
    batch_size: int = 32
    shard_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"temperature": 0, "seed": 0}
        for name, value in asdict(self).items():
            if value < least.get(name, 1):
                raise ValueError(f"{name} must be >= {least.get(name, 1)}, got {value}")


@dataclass(frozen=True, slots=True)
class SelfGenerated:
    """One answered prompt."""

    conversation: int
    prompt_ids: list[int]
    answer_ids: list[int]


def collect_self_generated(
    target: Target,
    conversations: Sequence[list[Message]],
    folder: Path,
    settings: SelfGenerationSettings,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> list[Path]:
    """Answers `conversations` into `folder`; shards that are there already are kept.

    Args:
        target: answers; its chat template renders the prompts.
        conversations: system messages and user turns of each.
        folder: where shards go; it is refused if it holds text collected otherwise.
        settings: how to answer.
        rank: this process answers every `world_size`-th shard.
        world_size: processes at work.

    Returns:
        Every shard's path in order, those of other processes too.
    """
    target.check_processors()
    if not 0 < settings.max_prompt_tokens + settings.max_new_tokens <= target.max_length:
        raise ValueError(
            f"max_prompt_tokens + max_new_tokens must be <= {target.max_length}, the target's "
            f"context, got {settings.max_prompt_tokens + settings.max_new_tokens}"
        )
    _claim(folder, target, conversations, settings)
    starts = range(0, len(conversations), settings.shard_size)
    paths = [folder / f"own_text-{index:05d}.safetensors" for index in range(len(starts))]
    todo = [i for i in range(len(starts)) if i % world_size == rank and not paths[i].exists()]
    for index in track(todo, "self-generated text", console=STDERR, disable=not todo):
        first = starts[index]
        chosen = conversations[first : first + settings.shard_size]
        write_texts(_answer(target, chosen, first, settings), paths[index])
    return paths


def text_identity(target: Target) -> dict[str, Any]:
    """What decides how a target answers a prompt: its weights, and what it makes of text."""
    tokenizer, generation = target.tokenizer, target.model.generation_config
    rules = {} if generation is None else generation.to_diff_dict()
    found = {
        "target": target.name,
        "target_weights": fingerprint(target.model),
        "dtype": str(target.dtype),
        "generation_config": {key: rules[key] for key in sorted(rules) if key[0] != "_"},
    }
    if tokenizer is not None:
        found["chat_template"] = tokenizer.chat_template
        backend = getattr(tokenizer, "backend_tokenizer", None)
        rules = tokenizer.get_vocab() if backend is None else backend.to_str()
        found["tokenizer_sha256"] = sha256(json.dumps(rules).encode()).hexdigest()
    return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]


def _claim(
    folder: Path,
    target: Target,
    conversations: Sequence[list[Message]],
    settings: SelfGenerationSettings,
) -> None:
    """Writes down how this folder's text is made; refuses a folder made otherwise."""
    digest = sha256(json.dumps(list(conversations)).encode()).hexdigest()
    config = {**text_identity(target), "conversations_sha256": digest, **asdict(settings)}
    path = folder / "own_text.json"
    if path.exists():
        found = json.loads(path.read_bytes())
        if found != config:
            raise ValueError(
                f"out must be a folder for text that is made alike, {folder} holds other text: "
                f"{difference(found, config)}"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(config, indent=2).encode())


def _answer(
    target: Target,
    conversations: Sequence[list[Message]],
    first: int,
    settings: SelfGenerationSettings,
) -> list[SelfGenerated]:
    """Answers turn after turn; the history of a turn is the target's own earlier answers."""
    histories: list[list[Message]] = [[] for _ in conversations]
    waiting = [list(messages) for messages in conversations]
    texts: list[SelfGenerated] = []
    for turn in range(settings.max_turns):
        prompts: list[tuple[int, list[int]]] = []
        for index, (history, messages) in enumerate(zip(histories, waiting, strict=True)):
            question = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
            if question is None:
                continue
            history += messages[: question + 1]
            del messages[: question + 1]
            prompt_ids = target.encode_chat(history)
            if len(prompt_ids) <= settings.max_prompt_tokens:
                prompts.append((index, prompt_ids))
            else:
                messages.clear()
        # A text's seed says which it is: neither shard nor batch has a say in what it becomes.
        names = [f"{settings.seed} {first + index} {turn}" for index, _ in prompts]
        answers = generate_batch(
            target,
            None,
            "vanilla",
            [prompt_ids for _, prompt_ids in prompts],
            max_batch=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            seed=[crc32(name.encode()) for name in names],
        )
        for (index, prompt_ids), answer in zip(prompts, answers, strict=True):
            texts.append(SelfGenerated(first + index, prompt_ids, answer.token_ids))
            content = _decode(target, answer.token_ids)
            histories[index].append({"role": "assistant", "content": content})
    return texts


def _decode(target: Target, token_ids: list[int]) -> str:
    assert target.tokenizer is not None
    return str(target.tokenizer.decode(token_ids, skip_special_tokens=True))


def write_texts(texts: list[SelfGenerated], path: Path) -> None:
    """One shard: the texts end to end, and where each begins and is answered."""
    flat = [token for text in texts for token in text.prompt_ids + text.answer_ids]
    tensors: dict[str, Tensor] = {
        "token_ids": torch.tensor(flat, dtype=torch.int32),
        "prompt_lengths": torch.tensor([len(t.prompt_ids) for t in texts], dtype=torch.int32),
        "answer_lengths": torch.tensor([len(t.answer_ids) for t in texts], dtype=torch.int32),
        "conversations": torch.tensor([t.conversation for t in texts], dtype=torch.int32),
    }
    write_whole(path, save(tensors))
