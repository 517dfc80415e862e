"""What a generation config does to logits, for plain and drafted decoding alike.

The processors are those of `transformers`. Most read the text so far, which is another for every
node of a tree: each row of a verification is processed with its own path behind it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import (
    ExponentialDecayLengthPenalty,
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    GenerationConfig,
    InfNanRemoveLogitsProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from adaeagle.tree import DraftTree

REFUSED: dict[str, object] = {
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "guidance_scale": 1,
    "watermarking_config": None,
}
"""What is not applied, and the value that asks for nothing."""

REFUSED_WHEN_SAMPLED: dict[str, object] = {
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Beside temperature, top-k and top-p, which are arguments here; at temperature 0 `transformers`
too leaves them out."""


def check_processors(config: GenerationConfig | None, is_greedy: bool) -> None:
    """Refuses settings that change logits and are not applied here."""
    for name, neutral in (REFUSED if is_greedy else REFUSED | REFUSED_WHEN_SAMPLED).items():
        found = getattr(config, name, None)
        if found not in (None, neutral):
            raise NotImplementedError(
                f"{name} of the generation config must be {neutral}, got {found}: it is not "
                "applied to drafted text"
            )


def build(
    config: GenerationConfig | None,
    prompt_length: int,
    max_length: int,
    stop_token_ids: frozenset[int],
    device: torch.device,
) -> LogitsProcessorList:
    """The processors that a config asks for, in the order of `transformers`.

    Args:
        config: a model's generation config.
        prompt_length: tokens of the prompt.
        max_length: most tokens of prompt and text.
        stop_token_ids: what ends the text; settings about its end mean these.
        device: of the logits.
    """
    if config is None:
        return LogitsProcessorList()
    ends = torch.tensor(sorted(stop_token_ids), device=device) if stop_token_ids else None
    return LogitsProcessorList(_processors(config, prompt_length, max_length, ends, device))


def _processors(
    config: GenerationConfig,
    prompt_length: int,
    max_length: int,
    ends: Tensor | None,
    device: torch.device,
) -> Iterator[LogitsProcessor]:
    on = str(device)
    if config.sequence_bias is not None:
        yield SequenceBiasLogitsProcessor(config.sequence_bias)
    if config.repetition_penalty not in (None, 1.0):
        yield RepetitionPenaltyLogitsProcessor(config.repetition_penalty)
    if config.no_repeat_ngram_size:
        yield NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size)
    if config.bad_words_ids is not None:
        yield NoBadWordsLogitsProcessor(config.bad_words_ids, ends)
    if config.min_length and ends is not None:
        yield MinLengthLogitsProcessor(config.min_length, ends, on)
    if config.min_new_tokens and ends is not None:
        yield MinNewTokensLengthLogitsProcessor(prompt_length, config.min_new_tokens, ends, on)
    if config.forced_bos_token_id is not None:
        yield ForcedBOSTokenLogitsProcessor(config.forced_bos_token_id)
    if config.forced_eos_token_id is not None:
        yield ForcedEOSTokenLogitsProcessor(max_length, config.forced_eos_token_id, on)
    if config.remove_invalid_values:
        yield InfNanRemoveLogitsProcessor()
    if config.exponential_decay_length_penalty is not None and ends is not None:
        decay = config.exponential_decay_length_penalty
        yield ExponentialDecayLengthPenalty(decay, ends, prompt_length)
    if config.suppress_tokens is not None:
        yield SuppressTokensLogitsProcessor(config.suppress_tokens, on)
    if config.begin_suppress_tokens is not None:
        is_begun = prompt_length > 1 or config.forced_bos_token_id is None
        begin = prompt_length if is_begun else prompt_length + 1
        yield SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, begin, on)


def process_paths(
    processors: LogitsProcessorList, logits: Tensor, text_ids: list[int], tree: DraftTree
) -> Tensor:
    """Processes every row with the text and its own path behind it.

    Args:
        processors: at least one.
        logits: [1, N+1, V] after the root and after every node.
        text_ids: prompt and text, the root included.
        tree: N nodes of one round.

    Returns:
        float32 [1, N+1, V].
    """
    paths: list[list[int]] = [[]]
    parents, token_ids = tree.parents[0].tolist(), tree.token_ids[0].tolist()
    for parent, token in zip(parents, token_ids, strict=True):
        paths.append([*paths[parent + 1], token])
    by_length: dict[int, list[int]] = {}
    for row, path in enumerate(paths):
        by_length.setdefault(len(path), []).append(row)
    scores = logits[0].float()
    processed = torch.empty_like(scores)
    for rows in by_length.values():
        before = torch.tensor([text_ids + paths[row] for row in rows], device=logits.device)
        processed[rows] = processors(before, scores[rows])  # type: ignore[arg-type]
    return processed.unsqueeze(0)
