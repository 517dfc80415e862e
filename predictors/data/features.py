"""The target's features of its own texts, written once: epochs of a small head are then cheap.

A large target's features take terabytes; there they are computed in the training step instead.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save
from torch import Tensor

from adaeagle.data.files import write_whole
from adaeagle.models.backbone import LAST
from adaeagle.models.target import Target

STDERR = Console(stderr=True)


@torch.no_grad()
def target_features(target: Target, token_ids: Tensor, layers: tuple[int, ...] = (LAST,)) -> Tensor:
    """Features [B, T, C*H] of C layers side by side; padding at the right does no harm."""
    positions = torch.arange(token_ids.shape[1], device=token_ids.device).unsqueeze(0)
    return target.forward(token_ids, positions, None, None, layers).chosen


def feature_file(folder: Path, shard: Path) -> Path:
    """Where the features of a shard of texts lie: one row a token of the shard, in its order."""
    return folder / shard.name.replace("own_text", "features")


def load_features(path: Path) -> Tensor:
    """[tokens, C*H] in the target's dtype."""
    return load_file(path)["features"]


def collect_features(
    target: Target,
    shards: Sequence[Path],
    folder: Path,
    layers: tuple[int, ...] = (LAST,),
    batch_size: int = 16,
) -> None:
    """Writes the features of every text of `shards`; files that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [shard for shard in shards if not feature_file(folder, shard).exists()]
    for shard in track(todo, "features", console=STDERR, disable=not todo):
        tensors = load_file(shard)
        lengths = (tensors["prompt_lengths"] + tensors["answer_lengths"]).tolist()
        texts = list(torch.split(tensors["token_ids"].long(), lengths))
        found = save({"features": _features(target, texts, layers, batch_size)})
        write_whole(feature_file(folder, shard), found)


def _features(
    target: Target, texts: list[Tensor], layers: tuple[int, ...], batch_size: int
) -> Tensor:
    """Features of texts end to end; texts of like length share a batch."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        token_ids = torch.nn.utils.rnn.pad_sequence([texts[i] for i in batch], batch_first=True)
        features = target_features(target, token_ids.to(target.device), layers).cpu()
        for index, row in zip(batch, features, strict=True):
            found[index] = row[: len(texts[index])]
    return torch.cat(found)
