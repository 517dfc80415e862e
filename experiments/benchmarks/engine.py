"""How much the core adds to the two forwards that matter, and how it stands beside `transformers`.

Question: (a) `vanilla` against `transformers` `generate` with its default cache; (b) `chain` with a
draft model against `transformers` assisted generation, the same two models and constant length;
(c) `eagle2` and others against `vanilla`; (d) the share of a round outside the model forwards;
(e) how that host part grows with context and with verified nodes.
Setting: the two sides of a comparison make the same text from the same prompt in turns, so that a
machine that slows down slows both; every figure is a ratio within a pair, as median and bootstrap
interval over pairs. `text` compares whole texts, prompt included. `round` compares the median
seconds between one target forward and the next, from the second on: both sides then draft and
verify equally many tokens, so it says what (b) is at equal accepted lengths. The whole texts do
not: the assistant of `transformers` 5.23 drafts from a cache that differs from a fresh run's in
many rounds, so it may propose, and have accepted, other tokens than ours. Both sides' tokens a
target forward stand beside the ratios; ours count the prompt's forward, which drafts nothing,
where theirs draft before it. (d) and (e) pool the full-depth rounds of several texts, the first of
each left out, since its draft model reads the prompt.
Expected: (a) at least 1.0; (b) at least 1.3 at equal accepted lengths; (d) at most 15 % on 16
layers; (e) flat in context, at most linear in nodes.

    python -m experiments.benchmarks.engine --model random --dtype float32 --out result.json

The last line of stdout is the result as JSON.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adaeagle import generate, stream
from adaeagle.drafters.base import Drafter
from experiments.benchmarks import harness
from experiments.benchmarks.engine_models import Models, load
from experiments.benchmarks.harness import summary
from experiments.benchmarks.timing import Maker, forward_timer, paired

CONTEXTS = (256, 512, 1024, 2048, 4000)
NODES = (1, 8, 16, 32, 64, 128, 256)
CHAIN_LENGTHS = (3, 5, 8)
SHORTEST = 2 * (max(CHAIN_LENGTHS) + 1) + 1
"""Tokens a text needs for three target forwards, however much is accepted."""

TREES = ("chain(length=5)", "eagle2(depth=5, width=4, nodes=16)", "eagle2")
TREE_OF = "eagle2(depth=4, width=10, nodes={})"  # drafts 310 nodes whatever it verifies


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    num_tokens: int
    num_pairs: int
    num_repeats: int  # texts of each point of (d) and (e)
    contexts: Sequence[int]
    nodes: Sequence[int]


def ours(models: Models, drafter: Drafter | None, policy: str, num_tokens: int) -> Maker:
    """Our own text, never stopped."""

    def make(prompt: list[int]) -> list[int]:
        out = generate(
            models.target, drafter, policy, prompt, max_new_tokens=num_tokens, stop_token_ids=[]
        )
        return out.token_ids

    return make


def theirs(models: Models, length: int | None, num_tokens: int) -> Maker:
    """The same by `transformers`, plain, or assisted with drafts of `length`."""
    settings: dict[str, Any] = {"max_new_tokens": num_tokens, "do_sample": False, "pad_token_id": 0}
    if length is not None:
        assistant = models.lm.model.model
        config: Any = assistant.generation_config
        config.num_assistant_tokens = length
        config.num_assistant_tokens_schedule = "constant"
        config.assistant_confidence_threshold = 0.0
        settings["assistant_model"] = assistant
    model: Any = models.target.model

    def make(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt], device=models.target.device)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return list(out[0, len(prompt) :].tolist())

    return make


def against_transformers(models: Models, plan: Plan) -> dict[str, Any]:
    """(a) and (b)."""
    num = plan.num_tokens
    found = {
        "a_vanilla_over_generate": paired(
            models, ours(models, None, "vanilla", num), theirs(models, None, num), plan.num_pairs
        )
    }
    for length in CHAIN_LENGTHS:
        policy = f"chain(length={length})"
        found[f"b_{policy}_over_assisted"] = paired(
            models,
            ours(models, models.lm, policy, num),
            theirs(models, length, num),
            plan.num_pairs,
        )
    return found


def against_vanilla(models: Models, plan: Plan) -> dict[str, Any]:
    """(c); below 1, the inverse of `round` is the cost of a round in plain steps."""
    num = plan.num_tokens
    return {
        f"c_{policy}_over_vanilla": paired(
            models,
            ours(models, models.head, policy, num),
            ours(models, None, "vanilla", num),
            plan.num_pairs,
        )
        for policy in TREES
    }


@dataclass(frozen=True, slots=True)
class RoundTime:
    seconds: float
    outside: float  # of it, in no model forward


def round_times(models: Models, policy: str, prompt: list[int], num_tokens: int) -> list[RoundTime]:
    """Of one text's full-depth rounds after the first."""
    drafter = None if policy == "vanilla" else models.head
    rounds = []
    with forward_timer(models.target, models.head) as take:
        for piece in stream(
            models.target, drafter, policy, prompt, max_new_tokens=num_tokens, stop_token_ids=[]
        ):
            inside = take()
            if piece.round is not None:
                seconds = piece.round.seconds
                rounds.append((piece.round.depth, RoundTime(seconds, seconds - inside)))
    deepest = max(depth for depth, _ in rounds)
    return [times for depth, times in rounds[1:] if depth == deepest]


def pooled(
    models: Models, points: dict[str, tuple[str, list[int]]], plan: Plan
) -> dict[str, dict[str, Any]]:
    """Host share and milliseconds of each point's rounds, the points taking turns."""
    rounds: dict[str, list[RoundTime]] = {name: [] for name in points}
    for number in range(-1, plan.num_repeats):  # the first texts warm up
        for name, (policy, prompt) in points.items():
            found = round_times(models, policy, prompt, plan.num_tokens)
            if number >= 0:
                rounds[name] += found
    return {
        name: {
            "share": summary([times.outside / times.seconds for times in found]),
            "host_ms": summary([1000 * times.outside for times in found]),
        }
        for name, found in rounds.items()
    }


def host_share(models: Models, plan: Plan) -> dict[str, Any]:
    """(d) and (e)"""
    room = models.target.max_length - plan.num_tokens
    policies = {policy: (policy, models.prompts[0]) for policy in ("vanilla", *TREES)}
    contexts = {
        str(context): ("chain(length=5)", models.context_of(context))
        for context in plan.contexts
        if context <= room
    }
    nodes = {str(count): (TREE_OF.format(count), models.prompts[0]) for count in plan.nodes}
    return {
        "d_outside_forwards": pooled(models, policies, plan),
        "e_host_by_context": pooled(models, contexts, plan),
        "e_host_by_nodes": pooled(models, nodes, plan),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = harness.parser(__doc__, threads=None)
    parser.add_argument("--model", default="mini", help="a bundled model, or `random`")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, help=f"of each text, at least {SHORTEST}")
    parser.add_argument("--pairs", type=int, help="pairs of texts of each comparison")
    parser.add_argument("--contexts", type=int, nargs="+", help="tokens of (e)'s prompts")
    parser.add_argument("--nodes", type=int, nargs="+", help="verified nodes of (e)")
    options = parser.parse_args(argv)
    # A CPU without bfloat16 units emulates it, at a third of the speed, many rows at a tenth.
    is_slow = options.dtype == "bfloat16" and options.device == "cpu"
    plan = Plan(
        num_tokens=options.tokens or (32 if is_slow else 64),
        num_pairs=options.pairs or (3 if is_slow else 8),
        num_repeats=1 if is_slow else 2,
        contexts=options.contexts or (CONTEXTS[:3] if is_slow else CONTEXTS),
        nodes=options.nodes or (NODES[:5] if is_slow else NODES),
    )
    if plan.num_tokens < SHORTEST:
        parser.error(f"--tokens must be >= {SHORTEST}, got {plan.num_tokens}")
    torch.set_num_threads(options.threads)
    models = load(options.model, getattr(torch, options.dtype), options.device)
    result = {name: getattr(options, name) for name in ("model", "dtype", "device")}
    result["num_tokens"] = plan.num_tokens
    for step in (against_transformers, against_vanilla, host_share):
        found = step(models, plan)
        result |= found
        print(json.dumps(found, indent=1), file=sys.stderr)
    harness.finish("engine", options, result)


if __name__ == "__main__":
    main()
