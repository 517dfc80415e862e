"""How much the core adds to the two forwards that matter, and how it stands beside `transformers`.

Question: (a) `vanilla` against `transformers` `generate` with its default cache; (b) `chain` with a
draft model against `transformers` assisted generation, the same two models and constant length;
(c) `eagle2` against `vanilla`; (d) the share of a round outside the model forwards; (e) how that
host part grows with context and with nodes.
Setting: the two sides of a comparison take turns on the same prompt, so that a machine that slows
down slows both; every figure is a ratio within a pair, as median and bootstrap interval.
Expected: (a) at least 1.0; (b) at least 1.3 at equal accepted lengths; (d) at most 15 % on 16
layers; (e) flat in context, at most linear in nodes.

    python -m experiments.bench_engine [--model mini|random] [--dtype float32|bfloat16] [--out FILE]

The last line of stdout is the result as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from adaeagle import EagleDrafter, Generation, ModelDrafter, Target, generate
from adaeagle.bench import provenance
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from experiments.forward_time import ForwardTimer

NUM_TOKENS = 64
CHAIN_LENGTHS = (3, 5, 8)
CONTEXTS = (256, 512, 1024, 2048, 4000)
NODES = (1, 8, 16, 32, 64, 128, 256)


class Models:
    """The target, both drafters and a prompt, of `mini` or at random."""

    def __init__(self, name: str, dtype: torch.dtype, device: str) -> None:
        self.target = (
            _random_target(dtype, device)
            if name == "random"
            else Target.from_pretrained(name, dtype=dtype, device=device)
        )
        if name == "random":
            config = self.target.config
            self.head: Drafter = EagleDrafter(EagleHead(_head_config(config)), self.target)
            # The target's own first layers: a draft model that is sometimes right.
            self.lm: Drafter = ModelDrafter(_first_layers(self.target, 2), self.target)
        else:
            self.head = EagleDrafter.from_pretrained(name, self.target)
            self.lm = ModelDrafter.from_pretrained(name, self.target)
        draws = np.random.default_rng(0)
        self.prompt = draws.integers(10, self.target.vocab_size - 10, size=4096).tolist()


def _random_target(dtype: torch.dtype, device: str) -> Target:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=8192,
    )
    config._attn_implementation = "sdpa"
    model = LlamaForCausalLM(config).to(device, dtype)  # type: ignore[arg-type]
    return Target(model, name="random, 16 layers of width 256")


def _head_config(config: Any) -> EagleHeadConfig:
    return EagleHeadConfig.from_json({**config.to_dict(), "num_hidden_layers": 1, "bias": False})


def _first_layers(target: Target, num_layers: int) -> Target:
    config = LlamaConfig(**{**target.config.to_dict(), "num_hidden_layers": num_layers})
    model = LlamaForCausalLM(config)
    model.load_state_dict(target.model.state_dict(), strict=False)
    return Target(model.to(target.device, target.dtype))  # type: ignore[arg-type]


def ours(models: Models, drafter: Drafter | None, policy: str, context: int = 64) -> Generation:
    """`NUM_TOKENS` tokens after `context` tokens of prompt, never stopped."""
    return generate(
        models.target,
        drafter,
        policy,
        models.prompt[:context],
        max_new_tokens=NUM_TOKENS,
        stop_token_ids=[],
    )


def theirs(models: Models, length: int | None) -> int:
    """The same by `transformers`, plain or assisted; returns how many tokens it emitted."""
    prompt = torch.tensor([models.prompt[:64]], device=models.target.device)
    settings: dict[str, Any] = {
        "max_new_tokens": NUM_TOKENS,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    if length is not None:
        assert isinstance(models.lm, ModelDrafter)
        assistant = models.lm.model.model
        assistant.generation_config.num_assistant_tokens = length
        assistant.generation_config.num_assistant_tokens_schedule = "constant"
        assistant.generation_config.assistant_confidence_threshold = 0.0
        settings["assistant_model"] = assistant
    model = models.target.model
    model.generation_config.eos_token_id = None
    mask = torch.ones_like(prompt)
    out = model.generate(prompt, attention_mask=mask, **settings)  # type: ignore[operator]
    return int(out.shape[1]) - prompt.shape[1]


def paired(
    first: Callable[[], object], second: Callable[[], object], num_pairs: int
) -> dict[str, Any]:
    """How many times faster `first` is than `second`: in turn, the order swapped each time."""
    ratios = []
    for number in range(-1, num_pairs):  # the first pair warms up
        seconds = {}
        for side in (first, second) if number % 2 else (second, first):
            start = time.perf_counter()
            side()
            _synchronize()
            seconds[side] = time.perf_counter() - start
        if number >= 0:
            ratios.append(seconds[second] / seconds[first])
    return _summary(ratios)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _summary(values: list[float]) -> dict[str, Any]:
    drawn = np.random.default_rng(0).choice(values, size=(2000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return {
        "median": round(float(np.median(values)), 3),
        "ci95": [round(float(low), 3), round(float(high), 3)],
        "n": len(values),
    }


def against_transformers(models: Models, num_pairs: int) -> dict[str, Any]:
    """(a) and (b); the texts are compared too."""
    found: dict[str, Any] = {
        "a_vanilla_over_generate": paired(
            lambda: ours(models, None, "vanilla"), lambda: theirs(models, None), num_pairs
        )
    }
    for length in CHAIN_LENGTHS:
        ratio = paired(
            lambda length=length: ours(models, models.lm, f"chain(length={length})"),  # type: ignore[misc]
            lambda length=length: theirs(models, length),  # type: ignore[misc]
            num_pairs,
        )
        rounds = ours(models, models.lm, f"chain(length={length})").rounds
        ratio["tokens_per_round"] = round(NUM_TOKENS / len(rounds), 2)
        found[f"b_chain{length}_over_assisted"] = ratio
    return found


def against_vanilla(models: Models, num_pairs: int) -> dict[str, Any]:
    """(c)"""
    policies = ("eagle2", "eagle2(depth=5, width=4, nodes=16)", "chain(length=5)")
    return {
        f"c_{policy}_over_vanilla": paired(
            lambda policy=policy: ours(models, models.head, policy),  # type: ignore[misc]
            lambda: ours(models, None, "vanilla"),
            num_pairs,
        )
        for policy in policies
    }


def outside(models: Models, policy: str, context: int, num_runs: int) -> dict[str, Any]:
    """(d): the share of the rounds' time that is in no model forward, and milliseconds a round."""
    shares, milliseconds = [], []
    for number in range(num_runs + 1):
        with ForwardTimer(models.target, models.head) as timer:
            out = ours(models, models.head, policy, context)
        seconds = sum(r.seconds for r in out.rounds)
        if number:
            rest = seconds - timer.seconds_after_prefill
            shares.append(rest / seconds)
            milliseconds.append(1000 * rest / len(out.rounds))
    return {"share": _summary(shares), "ms_per_round": _summary(milliseconds)}


def growth(models: Models, num_runs: int) -> dict[str, Any]:
    """(e): host milliseconds a round by context and by verified nodes."""
    room = models.target.max_length - NUM_TOKENS - 1
    by_context = {
        str(context): outside(models, "chain(length=5)", context, num_runs)["ms_per_round"]
        for context in CONTEXTS
        if context <= room
    }
    by_nodes = {}
    for nodes in NODES:
        width = min(32, max(1, nodes // 4))
        policy = f"eagle2(depth=4, width={width}, nodes={nodes})"
        by_nodes[str(nodes)] = outside(models, policy, 64, num_runs)["ms_per_round"]
    return {"by_context": by_context, "by_nodes": by_nodes}


def run(name: str, dtype: str, device: str, num_pairs: int) -> dict[str, Any]:
    """Everything, for one pair of models in one dtype."""
    models = Models(name, getattr(torch, dtype), device)
    models.target.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    result: dict[str, Any] = {
        "benchmark": "engine",
        "model": name,
        "dtype": dtype,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "git": provenance.git(),
        "num_tokens": NUM_TOKENS,
    }
    steps: list[Callable[[], dict[str, Any]]] = [
        lambda: against_transformers(models, num_pairs),
        lambda: against_vanilla(models, num_pairs),
        lambda: {
            f"d_outside_forwards_{policy}": outside(models, policy, 64, num_pairs)
            for policy in ("vanilla", "chain(length=5)", "eagle2")
        },
        lambda: {"e_host_growth": growth(models, max(2, num_pairs // 3))},
    ]
    for step in steps:
        found = step()
        result |= found
        print(json.dumps(found, indent=1), file=sys.stderr)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="mini", help="a bundled model, or `random`")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=9, help="runs of each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="where the result is saved too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = run(arguments.model, arguments.dtype, arguments.device, arguments.pairs)
    line = json.dumps(result)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
