"""Prompt lookup, ours against that of `transformers`: the same drafts, how many tokens a second?

Question: with `ngram` set as `prompt_lookup_num_tokens` sets it (drafts of 10, n-grams of 2 and 1,
the first occurrence), does the core turn the same accepted tokens into more tokens a second?
Setting: each prompt's text is made by both, one after the other, in an order that changes; the
ratio of seconds is taken within the pair. Both take the same token first.
Expected: at least 1.3.

    python -m experiments.benchmarks.prompt_lookup --target smollm2 --prompts FILE --out result.json
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from adaeagle import Target, generate
from adaeagle.data.prompts import Conversation, read_prompts, spread
from adaeagle.drafters.ngram import NgramDrafter
from experiments.benchmarks import harness
from experiments.benchmarks.harness import summary
from experiments.benchmarks.timing import Maker, Text, timed

LENGTH, LONGEST = 10, 2
"""Drafted tokens and the longest n-gram, as `transformers` has them."""


def makers(target: Target, num_tokens: int) -> tuple[Maker, Maker]:
    """Our text and theirs, never stopped."""
    drafter = NgramDrafter(target, n_max=LONGEST, occurrence="first")
    model: Any = target.model

    def ours(prompt: list[int]) -> list[int]:
        policy = f"chain(length={LENGTH})"
        return generate(
            target, drafter, policy, prompt, max_new_tokens=num_tokens, stop_token_ids=[]
        ).token_ids

    def theirs(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt], device=target.device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
            prompt_lookup_num_tokens=LENGTH,
        )
        return list(out[0, len(prompt) :].tolist())

    return ours, theirs


def compare(
    target: Target, prompts: Sequence[list[int]], num_tokens: int
) -> list[tuple[Text, Text]]:
    """Each prompt's texts, ours and theirs; a first pair warms up."""
    sides = makers(target, num_tokens)
    pairs = []
    for number, prompt in enumerate([prompts[0], *prompts]):
        order = sides if number % 2 else sides[::-1]
        found = {make: timed(target, make, prompt) for make in order}
        pairs.append((found[sides[0]], found[sides[1]]))
    return pairs[1:]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = harness.parser(__doc__)
    parser.add_argument("--target", default="mini")
    parser.add_argument("--prompts", default="mini", help="a bundled set or a JSON Lines file")
    parser.add_argument("--limit", type=int, default=20, help="prompts")
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    target = Target.from_pretrained(options.target, dtype=torch.float32)
    target.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    chosen = spread(read_prompts(options.prompts), options.limit)
    prompts = [Conversation(target, prompt).next_ids() or [] for prompt in chosen]
    pairs = compare(target, prompts, options.tokens)
    ours, theirs = ([side.seconds for side in sides] for sides in zip(*pairs, strict=True))
    result = {
        **{name: getattr(options, name) for name in ("target", "prompts", "tokens", "threads")},
        "speedup": summary([other / own for own, other in zip(ours, theirs, strict=True)]),
        "speedup_of_totals": round(sum(theirs) / sum(ours), 3),
        "speedup_of_totals_ci95": harness.interval(harness.ratio_of_totals, theirs, ours),
        "equal_texts": sum(own.token_ids == other.token_ids for own, other in pairs),
        "forwards": [sum(len(text.ends) for text in side) for side in zip(*pairs, strict=True)],
        "num_texts": len(pairs),
    }
    return harness.finish("prompt_lookup", options, result)


if __name__ == "__main__":
    main()
