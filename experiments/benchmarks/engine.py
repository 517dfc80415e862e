"""How the core stands beside `transformers`: plain, with a draft model, and with prompt lookup.

Question: how many times as fast as `transformers`' `generate` is (a) `vanilla` as plain decoding;
(b) `chain` with a draft model as assisted generation of the same constant length; (c) `chain` with
`ngram` as prompt lookup of the same settings (drafts of 10, n-grams of 2 and 1, the first
occurrence)?
Setting: both sides make the same text from the same prompt in turns, so that a machine that slows
down slows both, and who begins changes. `text` compares whole texts, prompt included; `totals` the
seconds of all texts; `round` the median seconds between one target forward and the next, from the
second on: what a round costs at equal accepted lengths. Whole texts of (b) do not say that: the
assistant of `transformers` 5.23 drafts from a cache that differs from a fresh run's in many rounds,
so it may have other tokens accepted than ours. Both sides' tokens a target forward stand beside the
ratios. Every ratio is taken within a pair; median and bootstrap interval over pairs.
Expected: (a) at least 1.0; (b) and (c) at least 1.3 at equal accepted lengths.

    python -m experiments.benchmarks.engine --target mini --draft-model mini --out result.json

The last line of stdout is the result as JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from adaeagle import ModelDrafter, Target, generate
from adaeagle.data.prompts import Conversation, read_prompts, spread
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.ngram import NgramDrafter
from experiments.benchmarks import harness
from experiments.benchmarks.harness import interval, ratio_of_totals, summary

ASSISTED_LENGTHS = (3, 5, 8)
LOOKUP_LENGTH, LONGEST_NGRAM = 10, 2
SHORTEST = 2 * (max(ASSISTED_LENGTHS) + 1) + 1
"""Tokens a text needs for three target forwards, however much is accepted."""

Maker = Callable[[list[int]], list[int]]
"""Makes a text from a prompt."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text and when its target forwards ended."""

    token_ids: list[int]
    seconds: float
    ends: list[float]

    @property
    def round_seconds(self) -> float:
        return float(np.median(np.diff(self.ends[1:])))


def timed(target: Target, make: Maker, prompt: list[int]) -> Text:
    ends: list[float] = []
    last: Any = target.model.base_model.norm  # what both sides run once a forward
    handle = last.register_forward_hook(lambda *_: ends.append(time.perf_counter()))
    start = time.perf_counter()
    token_ids = make(prompt)  # on the host at the end, so nothing is left to wait for
    seconds = time.perf_counter() - start
    handle.remove()
    return Text(token_ids, seconds, ends)


def paired(
    target: Target, ours: Maker, theirs: Maker, prompts: Sequence[list[int]]
) -> dict[str, Any]:
    """How many times as fast the first is: in turns, the order swapped each time."""
    pairs = []
    for number, prompt in enumerate([prompts[0], *prompts]):
        sides = (ours, theirs) if number % 2 else (theirs, ours)
        found = {make: timed(target, make, prompt) for make in sides}
        if number > 0:  # the first pair warms up
            pairs.append((found[ours], found[theirs]))
    texts = list(zip(*pairs, strict=True))
    own, other = ([text.seconds for text in side] for side in texts)
    return {
        "text": summary([b.seconds / a.seconds for a, b in pairs]),
        "totals": round(sum(other) / sum(own), 3),
        "totals_ci95": interval(ratio_of_totals, other, own, digits=3),
        "round": summary([b.round_seconds / a.round_seconds for a, b in pairs]),
        "ms_per_round": [
            round(1000 * float(np.median([text.round_seconds for text in side])), 2)
            for side in texts
        ],
        "tokens_per_forward": [
            round(sum(len(t.token_ids) for t in side) / sum(len(t.ends) for t in side), 2)
            for side in texts
        ],
        "equal_texts": sum(a.token_ids == b.token_ids for a, b in pairs),
    }


def our_side(target: Target, drafter: Drafter | None, policy: str, num_tokens: int) -> Maker:
    """Our own text, never stopped."""

    def make(prompt: list[int]) -> list[int]:
        return generate(
            target, drafter, policy, prompt, max_new_tokens=num_tokens, stop_token_ids=[]
        ).token_ids

    return make


def their_side(target: Target, num_tokens: int, **settings: Any) -> Maker:
    """The same by `transformers`."""
    model: Any = target.model

    def make(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt], device=target.device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
            **settings,
        )
        return list(out[0, len(prompt) :].tolist())

    return make


def assistant(drafter: ModelDrafter, length: int) -> Any:
    """A draft model as `transformers` takes it, drafting a constant number of tokens."""
    model: Any = drafter.model.model
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        num_assistant_tokens=length,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )
    return model


def comparisons(
    target: Target, lm: ModelDrafter | None, prompts: Sequence[list[int]], num_tokens: int
) -> dict[str, Any]:
    """(a), (b) where there is a draft model, and (c)."""
    found = {}

    def compare(name: str, drafter: Drafter | None, policy: str, **settings: Any) -> None:
        ours = our_side(target, drafter, policy, num_tokens)
        theirs = their_side(target, num_tokens, **settings)
        found[name] = paired(target, ours, theirs, prompts)
        print(name, json.dumps(found[name]), file=sys.stderr)

    compare("a_plain", None, "vanilla")
    for length in ASSISTED_LENGTHS if lm is not None else ():
        assert lm is not None
        model = assistant(lm, length)
        compare(f"b_assisted_{length}", lm, f"chain(length={length})", assistant_model=model)
    ngram = NgramDrafter(target, n_max=LONGEST_NGRAM, occurrence="first")
    lookup = {"prompt_lookup_num_tokens": LOOKUP_LENGTH}
    compare("c_prompt_lookup", ngram, f"chain(length={LOOKUP_LENGTH})", **lookup)
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = harness.parser(__doc__, threads=None)
    parser.add_argument("--target", default="mini")
    parser.add_argument("--draft-model", help="a causal LM with the target's vocabulary")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", default="mini", help="a bundled set or a JSON Lines file")
    parser.add_argument("--limit", type=int, default=8, help="prompts")
    parser.add_argument("--tokens", type=int, default=64, help=f"a text, at least {SHORTEST}")
    options = parser.parse_args(argv)
    if options.tokens < SHORTEST:
        parser.error(f"--tokens must be >= {SHORTEST}, got {options.tokens}")
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    target = Target.from_pretrained(options.target, dtype=dtype, device=options.device)
    target.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    lm = None
    if options.draft_model is not None:
        lm = ModelDrafter.from_pretrained(options.draft_model, target)
    chosen = spread(read_prompts(options.prompts), options.limit)
    prompts = [Conversation(target, prompt).next_ids() or [] for prompt in chosen]
    given = ("target", "draft_model", "dtype", "device", "prompts", "tokens", "threads")
    result = {name: getattr(options, name) for name in given}
    result |= comparisons(target, lm, prompts, options.tokens)
    return harness.finish("engine", options, result)


if __name__ == "__main__":
    main()
