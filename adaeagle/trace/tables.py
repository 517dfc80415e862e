"""Recorded texts as Arrow tables, and back.

Three tables hold a shard: a row a text, a row a new token, a row a drafted node. Rows lie in the
order of the texts. No value is null.

Shapes: L new tokens, E nodes, R recorded ranks, K recorded target choices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from adaeagle.trace.envelope import UNKNOWN, Envelope
from adaeagle.trace.text import RecordedText


def _schema(**columns: Any) -> Any:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def _list(kind: Any) -> Any:
    return pa.list_(pa.field("element", kind, nullable=False))


TEXTS = _schema(
    prompt_id=pa.string(),
    turn=pa.int32(),
    category=pa.string(),
    source=pa.string(),
    split=pa.string(),
    prompt_ids=_list(pa.int32()),
    token_ids=_list(pa.int32()),
    limit=pa.int32(),
    num_positions=pa.int32(),
    num_nodes=pa.int64(),
    num_ranks=pa.int32(),
)
TOKENS = _schema(
    prompt_id=pa.string(),
    turn=pa.int32(),
    position=pa.int32(),
    token_id=pa.int32(),
    top_token_ids=_list(pa.int32()),
    top_log_probs=_list(pa.float32()),
)
NODES = _schema(
    prompt_id=pa.string(),
    turn=pa.int32(),
    position=pa.int32(),
    node=pa.int64(),
    parent=pa.int64(),
    rank=pa.int32(),
    depth=pa.int32(),
    token_id=pa.int32(),
    log_prob=pa.float32(),
    path_log_prob=pa.float32(),
    is_accepted=pa.bool_(),
    entropy=pa.float32(),
    child_token_ids=_list(pa.int32()),
    child_log_probs=_list(pa.float32()),
)
NEEDED = {
    "tokens": ["top_token_ids", "top_log_probs"],
    "nodes": ["position", "parent", "rank", "entropy", "child_token_ids", "child_log_probs"],
}
"""The columns that texts are rebuilt from; the others are there for people."""


def to_tables(texts: Sequence[RecordedText], split: str) -> dict[str, Any]:
    """The tables `texts`, `tokens` and `nodes` of some texts of one split."""
    return {
        "texts": pa.concat_tables([_text_row(text, split) for text in texts]),
        "tokens": pa.concat_tables([_token_rows(text) for text in texts]),
        "nodes": pa.concat_tables([_node_rows(text) for text in texts]),
    }


def _text_row(text: RecordedText, split: str) -> Any:
    row = {
        "prompt_id": text.prompt_id,
        "turn": text.turn,
        "category": text.category,
        "source": text.source,
        "split": split,
        "prompt_ids": text.prompt_ids.tolist(),
        "token_ids": text.token_ids.tolist(),
        "limit": text.limit,
        "num_positions": text.num_positions,
        "num_nodes": text.envelope.num_nodes,
        "num_ranks": text.envelope.num_ranks,
    }
    return pa.Table.from_pylist([row], schema=TEXTS)


def _token_rows(text: RecordedText) -> Any:
    return _rows(
        text,
        TOKENS,
        position=torch.arange(len(text.token_ids)) - 1,
        token_id=text.token_ids,
        top_token_ids=text.top_token_ids,
        top_log_probs=text.top_log_probs,
    )


def _node_rows(text: RecordedText) -> Any:
    envelope = text.envelope
    return _rows(
        text,
        NODES,
        position=envelope.positions,
        node=torch.arange(envelope.num_nodes),
        parent=envelope.parents,
        rank=envelope.ranks,
        entropy=envelope.entropies,
        child_token_ids=envelope.token_ids,
        child_log_probs=envelope.log_probs,
        **_paths(text),
    )


def _rows(text: RecordedText, schema: Any, **columns: Tensor) -> Any:
    """A table of a text's rows; a column of two dimensions becomes one of lists."""
    [num_rows] = {len(column) for column in columns.values()}
    arrays = [
        pa.repeat(text.prompt_id, num_rows),
        pa.repeat(pa.scalar(text.turn, pa.int32()), num_rows),
    ]
    arrays += [_array(columns[found.name], found.type) for found in list(schema)[2:]]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: Tensor, kind: Any) -> Any:
    if column.ndim == 1:
        return pa.array(column.numpy(), kind)
    offsets = np.arange(len(column) + 1, dtype=np.int32) * column.shape[1]
    values = pa.array(column.flatten().numpy(), kind.value_type)
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _paths(text: RecordedText) -> dict[str, Tensor]:
    """What follows of each node from those above it; a root is the pending token itself."""
    envelope = text.envelope
    positions, is_root = envelope.positions, envelope.parents < 0
    parents = envelope.parents.clamp(min=0)
    token_ids = envelope.token_ids[parents, envelope.ranks]
    token_ids = torch.where(is_root, text.token_ids[positions], token_ids)
    log_probs = envelope.log_probs[parents, envelope.ranks].masked_fill(is_root, 0.0)
    depths, path_log_probs = torch.zeros_like(parents), torch.zeros_like(log_probs)
    is_accepted, level = is_root.clone(), is_root
    while (level := ~is_root & level[parents]).any():  # the children of the level before
        nodes = level.nonzero().flatten()
        above = parents[nodes]
        depths[nodes] = depths[above] + 1
        path_log_probs[nodes] = path_log_probs[above] + log_probs[nodes]
        places = positions[nodes] + depths[nodes]
        is_inside = places < len(text.token_ids)
        expected = text.token_ids[places.clamp(max=len(text.token_ids) - 1)]
        is_accepted[nodes] = is_accepted[above] & is_inside & (expected == token_ids[nodes])
    return {
        "depth": depths,
        "token_id": token_ids,
        "log_prob": log_probs,
        "path_log_prob": path_log_probs,
        "is_accepted": is_accepted,
    }


def from_tables(tables: Mapping[str, Any], features: Mapping[str, Tensor]) -> list[RecordedText]:
    """The texts of `to_tables`; only the `NEEDED` columns of tokens and nodes need be there.

    Args:
        tables: `texts`, `tokens` and `nodes`.
        features: by `feature_name`.
    """
    rows = tables["texts"].to_pylist()
    tokens = {name: _Column(tables["tokens"][name]) for name in NEEDED["tokens"]}
    nodes = {name: _Column(tables["nodes"][name]) for name in NEEDED["nodes"]}
    texts: list[RecordedText] = []
    token, node = 0, 0
    for row in rows:
        num_tokens, num_nodes = len(row["token_ids"]), row["num_nodes"]
        part = {name: each.rows(token, num_tokens) for name, each in tokens.items()}
        drafted = {name: each.rows(node, num_nodes) for name, each in nodes.items()}
        token, node = token + num_tokens, node + num_nodes
        names = row["prompt_id"], row["turn"]
        texts.append(
            RecordedText(
                prompt_id=row["prompt_id"],
                turn=row["turn"],
                category=row["category"],
                source=row["source"],
                prompt_ids=torch.tensor(row["prompt_ids"], dtype=torch.int64),
                token_ids=torch.tensor(row["token_ids"], dtype=torch.int64),
                limit=row["limit"],
                features=features[feature_name("features", *names)],
                draft_features=features.get(feature_name("draft_features", *names)),
                top_token_ids=part["top_token_ids"].long(),
                top_log_probs=part["top_log_probs"],
                envelope=_envelope(row["num_positions"], row["num_ranks"], drafted),
            )
        )
    return texts


def feature_name(kind: str, prompt_id: str, turn: int) -> str:
    """What a text's tensor is called among the features; `kind` as in `RecordedText`."""
    return f"{kind}/{prompt_id}/{turn}"


def _envelope(num_positions: int, num_ranks: int, nodes: Mapping[str, Tensor]) -> Envelope:
    envelope = Envelope(num_positions, num_ranks)
    token_ids = nodes["child_token_ids"].view(-1, num_ranks).long()
    envelope.is_ragged = bool((token_ids[:, -1] == UNKNOWN).any())
    envelope.add(
        nodes["position"].long(),
        nodes["parent"].long(),
        nodes["rank"].long(),
        token_ids,
        nodes["child_log_probs"].view(-1, num_ranks),
        nodes["entropy"],
    )
    return envelope


class _Column:
    """A column without nulls, of values or of lists that are equally long within a text."""

    def __init__(self, column: Any) -> None:
        whole = column.combine_chunks()
        self._starts = whole.offsets.to_numpy() if pa.types.is_list(whole.type) else None
        self._values = (whole if self._starts is None else whole.values).to_numpy()

    def rows(self, start: int, count: int) -> Tensor:
        """[count] or [count, length of a list]."""
        if self._starts is None:
            return torch.tensor(self._values[start : start + count])
        first, last = self._starts[start], self._starts[start + count]
        width = (last - first) // max(1, count)
        return torch.tensor(self._values[first:last]).view(count, width)
