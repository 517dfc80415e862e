"""Tiny random models, their drafters, and the comparison with plain decoding.

Test files cannot import each other, so what they share comes as fixtures; most are factories.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from adaeagle import EagleDrafter, ModelDrafter, Target
from adaeagle.drafters.base import Drafter
from adaeagle.drafters.eagle_head import EagleHead, EagleHeadConfig
from adaeagle.identity import ModelIdentity
from adaeagle.registry import PREDICTORS, build
from experiments.mini.tokenizer import train_tokenizer
from predictors.base import Metadata, Predictor

NEAR_TIE = 1e-4
"""Forwards of different width round differently: below this gap either token is right."""

CONFIGS = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
NEAR_TIES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NEAR_TIES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Near-ties are told, not hidden."""
    found = terminalreporter.config.stash[NEAR_TIES]
    terminalreporter.write_line(f"texts that left plain decoding at a near-tie: {len(found)}")
    for line in found:
        terminalreporter.write_line(f"  {line}")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny forwards gain nothing from threads, and sums keep one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
@torch.inference_mode(False)  # they are shared, whatever the first test that wants one runs in
def random_model(
    family: str,
    *,
    std: float = 0.2,
    num_layers: int = 4,
    hidden_size: int = 48,
    vocab_size: int = 96,
    attention: str = "sdpa",
    seed: int = 0,
) -> PreTrainedModel:
    """A causal LM whose weights, biases included, are normal with deviation `std`.

    At 0.2 the texts vary (about 30 of 96 tokens in 64) and no distribution is flat or peaked.
    """
    torch.manual_seed(seed)
    config = CONFIGS[family](
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        max_position_embeddings=512,
        initializer_range=std,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, attn_implementation=attention
    )
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight, std=std)
    return model.eval()  # type: ignore[no-any-return]


def add_noise(model: nn.Module, share: float, seed: int = 1) -> None:
    """Adds to every matrix normal noise of `share` of its own deviation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(share * weight.std() * noise)


def noisy_drafter(target: Target, share: float) -> ModelDrafter:
    """The target with noise on its weights."""
    model = copy.deepcopy(target.model)
    add_noise(model, share)
    return ModelDrafter(Target(model), target)


def hush_early_layers(model: Any) -> None:
    """Makes the next feature one layer's work, so that an EAGLE head can know it.

    All layers but the last add little to the embedding, and embeddings have a root mean square of
    1, so that the input norm of the last layer, which a head lacks, changes nothing.
    """
    with torch.no_grad():
        embedding = model.base_model.embed_tokens.weight
        embedding.div_(embedding.pow(2).mean(1, keepdim=True).sqrt())
        for layer in model.base_model.layers[:-1]:
            layer.self_attn.o_proj.weight.mul_(0.02)
            layer.mlp.down_proj.weight.mul_(0.02)


def last_layer_head(model: Any) -> EagleHead:
    """An EAGLE head made of the target's last layer, with noise on its weights.

    Its input layer passes the embedding on and a little of the feature, mixed at random. It ends
    without the target's final norm, which scales logits and keeps their order.
    """
    config = model.config
    last = model.base_model.layers[-1]
    head = EagleHead(
        EagleHeadConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            num_hidden_layers=1,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            hidden_act="silu",
            rope_theta=10000.0,
            fc_bias=False,
            qkv_bias=last.self_attn.q_proj.bias is not None,
        )
    )
    layer: Any = head.layers[0]
    own = layer.state_dict()
    layer.load_state_dict({name: w for name, w in last.state_dict().items() if name in own})
    size = config.hidden_size
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        if hasattr(last.self_attn, "q_norm"):
            # Qwen3 norms queries and keys, a head does not: give them its root mean square of 1.
            for weight in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight):
                weight.div_(weight.std() * size**0.5)
        mixed = 0.05 * torch.randn(size, size, generator=generator) / size**0.5
        head.fc.weight.copy_(torch.cat((torch.eye(size), mixed), dim=1))
    add_noise(head, 0.02)
    return head


@cache
@torch.inference_mode(False)
def model_pair(family: str, attention: str = "sdpa") -> tuple[Target, ModelDrafter]:
    target = Target(random_model(family, attention=attention))
    return target, noisy_drafter(target, 0.015)


@cache
@torch.inference_mode(False)
def eagle_pair(family: str, attention: str = "sdpa") -> tuple[Target, EagleDrafter]:
    model = copy.deepcopy(random_model(family, std=0.15, attention=attention))
    hush_early_layers(model)
    target = Target(model)
    return target, EagleDrafter(last_layer_head(model), target)


MakePair = Callable[..., tuple[Target, Drafter]]


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PreTrainedModel]:
    """`random_model`: shared, so copy before changing one."""
    return random_model


@pytest.fixture(scope="session")
def make_noisy_drafter() -> Callable[[Target, float], ModelDrafter]:
    """`noisy_drafter`: the target with noise on its weights, drafting for it."""
    return noisy_drafter


@pytest.fixture(scope="session")
def make_pair() -> MakePair:
    """A target and a drafter that it accepts two tokens of in the mean: (drafter kind, family)."""

    def make(kind: str, family: str = "llama", attention: str = "sdpa") -> tuple[Target, Drafter]:
        return model_pair(family, attention) if kind == "model" else eagle_pair(family, attention)

    return make


@pytest.fixture(scope="session")
def random_predictor() -> Callable[..., Predictor]:
    """A predictor whose weights are random: (spec, models, seed); its answers differ much."""

    def make(spec: str, models: ModelIdentity, seed: int = 0) -> Predictor:
        predictor: Predictor = build(spec, PREDICTORS)
        torch.manual_seed(seed)
        embedding = torch.randn(models.vocab_size, models.feature_size)
        predictor.prepare(Metadata(models), embedding if predictor.needs_embedding else None)
        with torch.no_grad():
            for name, weight in predictor.named_parameters():
                weight.mul_(3.0 if name.endswith("weight") else 1.0)
        counts = dict(predictor.named_buffers()).get("num_accepted")
        if counts is not None:  # of `hazard`, which training fills: any length is as usual
            counts.fill_(1 / len(counts))
        return predictor.eval()

    return make


@pytest.fixture(scope="session")
def make_prompt() -> Callable[[int, int], list[int]]:
    """Random token ids: (length, seed)."""

    def make(length: int, seed: int = 0) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 96, (length,), generator=generator).tolist()

    return make


@pytest.fixture(scope="session")
def plain_text() -> Callable[..., list[int]]:
    """What `transformers` says to a prompt: (target, prompt_ids, max_new_tokens, eos)."""
    known: dict[tuple[object, ...], list[int]] = {}

    def say(
        target: Target,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        eos: Sequence[int] | None = None,
    ) -> list[int]:
        ends = None if eos is None else tuple(eos)
        key = (target, tuple(prompt_ids), max_new_tokens, ends)
        if key not in known:
            ids = torch.tensor([list(prompt_ids)], device=target.device)
            said = target.model.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=None if ends is None else list(ends),
                pad_token_id=0,
            )
            known[key] = said[0, ids.shape[1] :].tolist()
        return known[key]

    return say


CheckText = Callable[[Target, Sequence[int], list[int], list[int]], None]


@pytest.fixture
def check_text(request: pytest.FixtureRequest) -> CheckText:
    """Asserts that a text is plain decoding's: (target, prompt_ids, found, expected).

    Where they part at a near-tie of the target's two best logits, that is noted in the summary.
    """

    def check(
        target: Target, prompt_ids: Sequence[int], found: list[int], expected: list[int]
    ) -> None:
        if found == expected:
            return
        pairs = enumerate(zip(found, expected, strict=False))
        place = next((i for i, (one, other) in pairs if one != other), None)
        assert place is not None, f"length {len(found)}, plain decoding {len(expected)}"
        gap = _top_gap(target, [*prompt_ids, *expected[:place]])
        where = f"{request.node.name}: token {place}, gap {gap:.2e}"
        assert gap <= NEAR_TIE, f"{where}: {found[place]} for {expected[place]}"
        request.config.stash[NEAR_TIES].append(where)

    return check


def _top_gap(target: Target, token_ids: list[int]) -> float:
    """Between the target's two best logits after these tokens."""
    with torch.inference_mode():
        logits: Tensor = target.model(torch.tensor([token_ids], device=target.device)).logits
    best = logits[0, -1].topk(2).values
    return float(best[0] - best[1])


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny target with a tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = train_tokenizer(["the cat sat on the mat and counted 1 2 3"] * 3, vocab_size=272)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.15,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(  # type: ignore[no-untyped-call]
        folder
    )
    return folder
