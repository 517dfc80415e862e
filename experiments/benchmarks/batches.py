"""How much faster texts side by side are decoded than one after another, and beside `transformers`.

Question: (a) plain decoding of many texts side by side against one after another; (b) against
`transformers` `generate` on the same prompts, padded in front; (c) each size under a policy.
Setting: the sides make the same texts in turns, the order swapped each time, so that a machine that
slows down slows both; prompts have their own lengths, and texts are never stopped.
Expected: (a) at least 2.5 for 8 texts and 3.5 for 16 on SmolLM2; (b) at least 1.0.

    python -m experiments.benchmarks.batches --target smollm2 --prompts FILE --out result.json
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from adaeagle import Target, generate, generate_batch, get_drafter
from adaeagle.data.prompts import Conversation, read_prompts, spread
from adaeagle.drafters.base import Drafter
from experiments.benchmarks import harness
from experiments.benchmarks.harness import summary

Texts = list[list[int]]
Side = Callable[[], Texts]


def ours(
    target: Target, drafter: Drafter | None, policy: str, prompts: Texts, num_tokens: int
) -> Side:
    """All prompts side by side."""

    def make() -> Texts:
        outs = generate_batch(
            target,
            drafter,
            policy,
            prompts,
            max_batch=len(prompts),
            max_new_tokens=num_tokens,
            stop_token_ids=[],
        )
        return [out.token_ids for out in outs]

    return make


def one_after_another(target: Target, prompts: Texts, num_tokens: int) -> Side:
    """Each prompt alone, plainly."""

    def make() -> Texts:
        settings: dict[str, Any] = {"max_new_tokens": num_tokens, "stop_token_ids": []}
        outs = (generate(target, None, "vanilla", prompt, **settings) for prompt in prompts)
        return [out.token_ids for out in outs]

    return make


def theirs(target: Target, prompts: Texts, num_tokens: int) -> Side:
    """`transformers` on the batch, padded in front."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    is_real = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    )
    model: Any = target.model

    def make() -> Texts:
        out = model.generate(
            ids,
            attention_mask=is_real,
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        found: Texts = out[:, longest:].tolist()
        return found

    return make


def compared(first: Side, second: Side, num_pairs: int) -> dict[str, Any]:
    """How many times faster `first` is than `second`, in turns; the first pair warms up."""
    ratios, equal, seconds = [], [], []
    for number in range(-1, num_pairs):
        found: dict[Side, tuple[float, Texts]] = {}
        for side in (first, second) if number % 2 else (second, first):
            began = time.perf_counter()
            texts = side()
            found[side] = (time.perf_counter() - began, texts)
        print(f"pair {number}: {[round(sec, 1) for sec, _ in found.values()]} s", flush=True)
        if number >= 0:
            ratios.append(found[second][0] / found[first][0])
            pairs = zip(found[first][1], found[second][1], strict=True)
            equal.append(sum(one == other for one, other in pairs))
            seconds.append(found[first][0])
    num_tokens = sum(len(text) for text in found[first][1])
    return {
        **summary(ratios),
        "tokens_per_second": round(num_tokens / sorted(seconds)[len(seconds) // 2], 1),
        "equal_texts": equal,
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = harness.parser(__doc__)
    parser.add_argument("--target", default="mini")
    parser.add_argument("--drafter", help="for --policies")
    parser.add_argument("--policies", nargs="*", default=[], help="(c)")
    parser.add_argument("--prompts", default="mini", help="a bundled set or a JSON Lines file")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16], help="texts side by side")
    parser.add_argument("--tokens", type=int, default=48, help="of each text")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    target = Target.from_pretrained(options.target, dtype=torch.float32)
    target.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    drafter = get_drafter(options.drafter, target) if options.drafter else None
    chosen = spread(read_prompts(options.prompts), max(options.sizes))
    prompts = [Conversation(target, prompt).next_ids() or [] for prompt in chosen]
    ratios: dict[str, Any] = {}
    for size in options.sizes:
        some, tokens = prompts[:size], options.tokens
        plain = ours(target, None, "vanilla", some, tokens)
        others = {
            f"a_{size}_over_one_after_another": (plain, one_after_another(target, some, tokens)),
            f"b_{size}_over_transformers": (plain, theirs(target, some, tokens)),
            **{
                f"c_{size}_{policy}_over_plain": (
                    ours(target, drafter, policy, some, tokens),
                    plain,
                )
                for policy in options.policies
            },
        }
        ratios |= {name: compared(*sides, options.pairs) for name, sides in others.items()}
    names = ("target", "drafter", "prompts", "tokens", "pairs", "threads")
    found = {name: getattr(options, name) for name in names}
    return harness.finish("batches", options, {**found, "ratios": ratios})


if __name__ == "__main__":
    main()
