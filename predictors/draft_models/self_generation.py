"""Collects the target's own answers: the text a draft model has to predict.

Source: EAGLE-1/2 train on the answers of a data set; EAGLE-3 (Li et al. 2025,
https://arxiv.org/abs/2503.01840) has the target answer its prompts anew, which this does.

Every turn of a conversation is a text of its own: the prompt as the target reads it, with its
earlier answers, then the answer's very tokens. Texts are written in shards, each whole or absent.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor
from transformers import DynamicCache

from adaeagle.models.target import Target
from predictors.draft_models.conversations import Message

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
        for name in (
            "max_new_tokens",
            "max_prompt_tokens",
            "max_turns",
            "batch_size",
            "shard_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0, got {self.temperature}")


@dataclass(frozen=True, slots=True)
class SelfGenerated:
    """One answered prompt."""

    conversation: int
    prompt_ids: list[int]
    answer_ids: list[int]


def collect_own_text(
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
    for index in track(todo, "own text", console=STDERR, disable=not todo):
        first = starts[index]
        chosen = conversations[first : first + settings.shard_size]
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed + index)
            texts = _answer(target, chosen, first, settings)
        write_texts(texts, paths[index])
    return paths


def _claim(
    folder: Path,
    target: Target,
    conversations: Sequence[list[Message]],
    settings: SelfGenerationSettings,
) -> None:
    """Writes down how this folder's text is made; refuses a folder made otherwise."""
    digest = sha256(json.dumps(list(conversations)).encode()).hexdigest()
    config = {"target": target.name, "conversations_sha256": digest, **asdict(settings)}
    path = folder / "own_text.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in config if found.get(key) != config[key]]
        if differing:
            key = differing[0]
            raise ValueError(
                f"{folder} holds text collected with {key}={found.get(key)!r}, which must be the "
                f"same to go on, got {config[key]!r}: choose another folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    _replace(path, json.dumps(config, indent=2).encode())


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
    for _ in range(settings.max_turns):
        asked: list[tuple[int, list[int]]] = []
        for index, (history, messages) in enumerate(zip(histories, waiting, strict=True)):
            turn = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
            if turn is None:
                continue
            history += messages[: turn + 1]
            del messages[: turn + 1]
            prompt_ids = target.encode_chat(history)
            if len(prompt_ids) <= settings.max_prompt_tokens:
                asked.append((index, prompt_ids))
            else:
                messages.clear()
        answers = _answer_batches(target, [prompt_ids for _, prompt_ids in asked], settings)
        for (index, prompt_ids), answer_ids in zip(asked, answers, strict=True):
            texts.append(SelfGenerated(first + index, prompt_ids, answer_ids))
            histories[index].append({"role": "assistant", "content": _decode(target, answer_ids)})
    return texts


def _decode(target: Target, token_ids: list[int]) -> str:
    assert target.tokenizer is not None
    return str(target.tokenizer.decode(token_ids, skip_special_tokens=True))


def _answer_batches(
    target: Target, prompts: list[list[int]], settings: SelfGenerationSettings
) -> list[list[int]]:
    """Answers in the order of `prompts`; prompts of like length share a batch."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        rows = generate_batch(target, [prompts[index] for index in batch], settings)
        for index, row in zip(batch, rows, strict=True):
            answers[index] = row
    return answers


@torch.inference_mode()
def generate_batch(
    target: Target, prompts: list[list[int]], settings: SelfGenerationSettings
) -> list[list[int]]:
    """Plain decoding of a batch; each answer ends with its first end token, if it reached one.

    Rows that have ended leave the batch once they are half of it, so that short answers do not
    wait for long ones.
    """
    longest = max(map(len, prompts))
    padded = [[0] * (longest - len(ids)) + ids for ids in prompts]
    is_real = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
    token_ids = torch.tensor(padded, device=target.device)
    mask = torch.tensor(is_real, device=target.device)
    stops = torch.tensor(target.eos_token_ids, device=target.device)
    cache = DynamicCache()
    answers: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))  # which answer each row of the batch is
    is_open = torch.ones(len(prompts), dtype=torch.bool)
    for _ in range(settings.max_new_tokens):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -token_ids.shape[1] :]
        features = target.model.base_model(
            input_ids=token_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        chosen = _choose(target.logits(features), settings.temperature)
        for row, token in zip(rows[is_open].tolist(), chosen[is_open].tolist(), strict=True):
            answers[row].append(token)
        is_open &= ~torch.isin(chosen, stops).cpu()
        if not is_open.any():
            break
        if 2 * int(is_open.sum()) <= len(rows):
            kept = is_open.nonzero().squeeze(1)
            cache.batch_select_indices(kept.to(target.device))
            chosen, mask, rows, is_open = chosen[kept], mask[kept], rows[kept], is_open[kept]
        token_ids = chosen.unsqueeze(1)
        mask = torch.cat((mask, torch.ones_like(token_ids)), dim=1)
    return answers


def _choose(logits: Tensor, temperature: float) -> Tensor:
    """One token a row: [B, V] → [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    probs = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(probs, 1).squeeze(1)


def write_texts(texts: list[SelfGenerated], path: Path) -> None:
    """One shard: the texts end to end, and where each begins and is answered."""
    flat = [token for text in texts for token in text.prompt_ids + text.answer_ids]
    tensors: dict[str, Tensor] = {
        "token_ids": torch.tensor(flat, dtype=torch.int32),
        "prompt_lengths": torch.tensor([len(t.prompt_ids) for t in texts], dtype=torch.int32),
        "answer_lengths": torch.tensor([len(t.answer_ids) for t in texts], dtype=torch.int32),
        "conversations": torch.tensor([t.conversation for t in texts], dtype=torch.int32),
    }
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(tensors, partial)
    partial.replace(path)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
