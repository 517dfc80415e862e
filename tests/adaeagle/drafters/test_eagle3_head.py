"""EAGLE-3 heads: the network, the official files, and text that stays plain decoding's."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

import adaeagle
from adaeagle import EagleDrafter, Target, get_policy
from adaeagle.decoding.proposals import LiveProposer
from adaeagle.decoding.sampling import Sampling
from adaeagle.decoding.verification import accept_child
from adaeagle.drafters.base import DraftSession, Proposal
from adaeagle.drafters.eagle3_head import Eagle3Head, Eagle3HeadConfig
from adaeagle.models.backbone import Features
from adaeagle.tree import ROOT, DraftTree

VOCAB, HIDDEN, LAYERS, DRAFT_VOCAB = 96, 48, 8, 80
FAMILIES = ["mistral", "phi3", "qwen2", "qwen3", "gpt_neox", "opt", "gpt2", "gemma2"]
RAW: dict[str, Any] = {  # the keys of the official files
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 40,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
    "draft_vocab_size": DRAFT_VOCAB,
}
POLICIES = [
    "vanilla",
    "chain(length=1)",
    "chain(length=5)",
    "chain(length=8, stop=confidence(threshold=0.2))",
    "static_tree",
    "eagle2(depth=5, width=4, nodes=14)",
    "eagle2(depth=3, width=3, nodes=30, stop=confidence(threshold=0.1))",
]

MakeModel = Callable[..., PreTrainedModel]


def draft_ids() -> Tensor:
    """A draft vocabulary with gaps everywhere."""
    order = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(1))
    ids: Tensor = order[:DRAFT_VOCAB].sort().values
    return ids


def random_weights(raw: dict[str, Any]) -> dict[str, Tensor]:
    """What an official file holds, in its own words."""
    generator = torch.Generator().manual_seed(5)
    size, inner = raw["hidden_size"], raw["intermediate_size"]
    reads = raw.get("target_hidden_size", size)
    kv_size = size // raw["num_attention_heads"] * raw["num_key_value_heads"]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    ids = draft_ids()
    return {
        "fc.weight": normal(size, 3 * reads),
        "midlayer.self_attn.q_proj.weight": normal(size, 2 * size),
        "midlayer.self_attn.k_proj.weight": normal(kv_size, 2 * size),
        "midlayer.self_attn.v_proj.weight": normal(kv_size, 2 * size),
        "midlayer.self_attn.o_proj.weight": normal(size, size),
        "midlayer.mlp.gate_proj.weight": normal(inner, size),
        "midlayer.mlp.up_proj.weight": normal(inner, size),
        "midlayer.mlp.down_proj.weight": normal(size, inner),
        "midlayer.hidden_norm.weight": 1 + normal(size),
        "midlayer.input_layernorm.weight": 1 + normal(size),
        "midlayer.post_attention_layernorm.weight": 1 + normal(size),
        "norm.weight": 1 + normal(size),
        "lm_head.weight": normal(DRAFT_VOCAB, size),
        "d2t": ids - torch.arange(DRAFT_VOCAB),
        "t2d": torch.zeros(VOCAB, dtype=torch.bool).index_fill_(0, ids, True),
    }


def write(folder: Path, raw: dict[str, Any], weights: dict[str, Tensor], kind: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    if kind == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def target(make_model: MakeModel) -> Target:
    return Target(make_model("llama", num_layers=LAYERS), name="tiny")


MakeReader = Callable[[str, bool], EagleDrafter]


@pytest.mark.parametrize("has_draft_vocab", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_text_is_plain_decoding(
    policy: str,
    has_draft_vocab: bool,
    make_reader: MakeReader,
    make_prompt: Callable[[int, int], list[int]],
    plain_text: Callable[..., list[int]],
    check_text: Callable[..., None],
) -> None:
    drafter = make_reader("llama", has_draft_vocab)
    accepted: list[int] = []
    for seed in range(3):
        prompt = make_prompt(1 + 6 * seed, seed)
        found = adaeagle.generate(
            drafter.target, drafter, policy, prompt, max_new_tokens=60, stop_token_ids=[]
        )
        check_text(drafter.target, prompt, found.token_ids, plain_text(drafter.target, prompt, 60))
        accepted += [round.num_accepted for round in found.rounds]
    if policy not in ("vanilla", "chain(length=1)"):
        assert sum(accepted) / len(accepted) >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_plain_decoding_in_every_family(
    family: str,
    make_reader: MakeReader,
    make_prompt: Callable[[int, int], list[int]],
    plain_text: Callable[..., list[int]],
    check_text: Callable[..., None],
) -> None:
    drafter, prompt = make_reader(family, True), make_prompt(7, 0)
    expected = plain_text(drafter.target, prompt, 40)
    accepted: list[int] = []
    for policy in POLICIES[2:]:
        found = adaeagle.generate(
            drafter.target, drafter, policy, prompt, max_new_tokens=40, stop_token_ids=[]
        )
        check_text(drafter.target, prompt, found.token_ids, expected)
        accepted += [round.num_accepted for round in found.rounds]
    assert sum(accepted) / len(accepted) >= 2


def test_sampled_text_runs_over_a_draft_vocabulary(make_reader: MakeReader) -> None:
    drafter = make_reader("llama", True)
    for policy in ("chain(length=4)", "static_tree", "eagle2(depth=3, width=3, nodes=8)"):
        found = adaeagle.generate(
            drafter.target,
            drafter,
            policy,
            [1, 2, 3],
            max_new_tokens=30,
            temperature=0.8,
            top_p=0.9,
            stop_token_ids=[],
        )
        assert len(found.token_ids) == 30
        assert sum(round.num_accepted for round in found.rounds) > 0


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_official_files_load_as_they_are(kind: str, target: Target, tmp_path: Path) -> None:
    weights = random_weights(RAW)
    drafter = EagleDrafter.from_pretrained(write(tmp_path, RAW, weights, kind), target)
    assert isinstance(drafter.head, Eagle3Head)
    assert drafter.feature_layers == (2, 4, 5)
    assert drafter.embedding is None
    assert drafter.vocab_map is not None
    assert torch.equal(drafter.vocab_map, draft_ids())
    for name, weight in drafter.head.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    drafter.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == weights.keys()
    again = EagleDrafter.from_pretrained(str(tmp_path / "again"), target)
    assert again.head.config == drafter.head.config


def test_the_network_is_the_published_formula(target: Target, tmp_path: Path) -> None:
    """One pair after another, one attention head at a time; the rotary base is 10000."""
    weights = random_weights(RAW)
    name = write(tmp_path, RAW, weights, "bin")
    drafter = EagleDrafter.from_pretrained(name, target)
    generator = torch.Generator().manual_seed(6)
    features = torch.randn(1, 5, 3 * HIDDEN, generator=generator)
    token_ids = torch.tensor([[3, 80, 7, 7, 41]])
    expected = _slow_states(weights, target.embed(token_ids)[0], features[0])
    with torch.inference_mode():
        session = drafter.begin([[0]], 16)
        first = session.catch_up(token_ids[:, :3], features[:, :3], [3])
        second = session.catch_up(token_ids[:, 3:], features[:, 3:], [2])
    for found, place in ((first, 2), (second, 4)):
        normed = _rms_norm(expected[place], weights["norm.weight"])
        assert found.logits is not None
        torch.testing.assert_close(found.logits[0, 0], weights["lm_head.weight"] @ normed)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    normed: Tensor = weight * x / (x.pow(2).mean() + RAW["rms_norm_eps"]).sqrt()
    return normed


def _slow_states(w: dict[str, Tensor], embeddings: Tensor, features: Tensor) -> list[Tensor]:
    heads, dim = RAW["num_attention_heads"], HIDDEN // RAW["num_attention_heads"]
    prefix = "midlayer.self_attn."
    keys: list[Tensor] = []
    values: list[Tensor] = []
    states: list[Tensor] = []
    for place, (embedding, feature) in enumerate(zip(embeddings, features, strict=True)):
        h = w["fc.weight"] @ feature
        z = torch.cat(
            (
                _rms_norm(embedding, w["midlayer.input_layernorm.weight"]),
                _rms_norm(h, w["midlayer.hidden_norm.weight"]),
            )
        )
        angles = [place / 10000 ** (2 * pair / dim) for pair in range(dim // 2)]
        turns = [torch.polar(torch.tensor(1.0), torch.tensor(angle)) for angle in angles]

        def turned(x: Tensor, turns: list[Tensor] = turns) -> Tensor:
            pairs = torch.complex(x[:, : dim // 2], x[:, dim // 2 :]) * torch.stack(turns)
            return torch.cat((pairs.real, pairs.imag), dim=1)

        query = turned((w[prefix + "q_proj.weight"] @ z).view(heads, dim))
        keys.append(turned((w[prefix + "k_proj.weight"] @ z).view(heads, dim)))
        values.append((w[prefix + "v_proj.weight"] @ z).view(heads, dim))
        mixed = []
        for head in range(heads):
            scores = torch.stack([key[head] @ query[head] for key in keys]) / dim**0.5
            mixed.append(scores.softmax(0) @ torch.stack([value[head] for value in values]))
        a = h + w[prefix + "o_proj.weight"] @ torch.cat(mixed)
        n = _rms_norm(a, w["midlayer.post_attention_layernorm.weight"])
        gate = torch.nn.functional.silu(w["midlayer.mlp.gate_proj.weight"] @ n)
        up = w["midlayer.mlp.up_proj.weight"] @ n
        states.append(a + w["midlayer.mlp.down_proj.weight"] @ (gate * up))
    return states


def test_the_cache_goes_on_from_true_features(target: Target, tmp_path: Path) -> None:
    """After rounds of drafting, a session says what one that never drafted says."""
    name = write(tmp_path, RAW, random_weights(RAW), "bin")
    drafter = EagleDrafter.from_pretrained(name, target)
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(1, 9, 3 * HIDDEN, generator=generator)
    token_ids = torch.randint(0, VOCAB, (1, 9), generator=generator)
    with torch.inference_mode():
        session = drafter.begin([[0]], 8)
        session.catch_up(token_ids[:, :4], features[:, :4], [4])
        session.extend(torch.tensor([[5, 6, 7]]), torch.tensor([[0, 0, 0]]))
        session.extend(torch.tensor([[8, 9]]), torch.tensor([[1, 3]]))
        session.catch_up(token_ids[:, 4:6], features[:, 4:6], [2])
        session.extend(torch.tensor([[5, 6]]), torch.tensor([[0, 0]]))
        found = session.catch_up(token_ids[:, 6:], features[:, 6:], [3])
        fresh = drafter.begin([[0]], 8).catch_up(token_ids, features, [9])
    torch.testing.assert_close(found.logits, fresh.logits)


@pytest.mark.parametrize("policy", ["vanilla", "chain(length=2)"])
def test_plain_decoding_pays_for_no_drafter(
    policy: str, make_reader: MakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same forwards with and without a head, and no features but the last layer's."""
    drafter = make_reader("llama", True)
    forward, forwards = Target.forward, []

    def noted(self: Target, *arguments: Any) -> Features:
        found = forward(self, *arguments)
        forwards.append((tuple(found.last.shape), found.chosen.shape[-1]))
        return found

    monkeypatch.setattr(Target, "forward", noted)
    monkeypatch.setattr(EagleDrafter, "begin", lambda *_: pytest.fail("a session was opened"))
    for head in (None, drafter):
        forwards.append(((), 0))
        if policy != "vanilla":  # the negative control
            with pytest.raises((ValueError, pytest.fail.Exception)):
                adaeagle.generate(drafter.target, head, policy, [5, 6, 7], max_new_tokens=9)
            continue
        adaeagle.generate(drafter.target, head, policy, [5, 6, 7], max_new_tokens=9)
    if policy == "vanilla":
        half = len(forwards) // 2
        assert forwards[:half] == forwards[half:]
        assert half == 1 + 9  # the mark, the prompt and eight rounds
        assert {width for _, width in forwards} == {0}


@pytest.mark.parametrize("family", ["llama", *FAMILIES])
def test_the_three_layers_are_those_of_transformers(family: str, make_reader: MakeReader) -> None:
    target = make_reader(family, True).target
    ids = torch.tensor([[7, 3, 90, 41, 5, 6]])
    with torch.inference_mode():
        session = target.begin(1, 16, (2, 4, 5))
        features, _ = session.prefill(ids[0].tolist())
        states = target.model(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(features.chosen, torch.cat((states[2], states[4], states[5]), -1))
    torch.testing.assert_close(features.last, states[-1])


def test_a_full_vocabulary_uses_ids_as_they_are(target: Target, tmp_path: Path) -> None:
    """Even where the file holds an offset map, which is then dropped."""
    raw = RAW | {"draft_vocab_size": VOCAB}
    weights = random_weights(raw) | {
        "lm_head.weight": torch.randn(VOCAB, HIDDEN),
        "d2t": torch.zeros(VOCAB, dtype=torch.int64),
        "t2d": torch.ones(VOCAB, dtype=torch.bool),
    }
    drafter = EagleDrafter.from_pretrained(write(tmp_path, raw, weights, "bin"), target)
    assert drafter.vocab_map is None
    assert "d2t" not in drafter.head.state_dict()


def test_a_narrower_head_brings_its_own_embedding(
    target: Target,
    tmp_path: Path,
    plain_text: Callable[..., list[int]],
    check_text: Callable[..., None],
) -> None:
    raw = RAW | {"hidden_size": 24, "target_hidden_size": HIDDEN}
    weights = random_weights(raw)
    with pytest.raises(
        ValueError, match=r"embed_tokens.weight must have shape \(96, 24\), got None"
    ):
        EagleDrafter.from_pretrained(write(tmp_path, raw, weights, "bin"), target)
    weights["embed_tokens.weight"] = torch.randn(VOCAB, 24)
    drafter = EagleDrafter.from_pretrained(write(tmp_path, raw, weights, "bin"), target)
    prompt = [5, 4, 3]
    found = adaeagle.generate(
        target, drafter, "eagle2(depth=3, width=3, nodes=8)", prompt, max_new_tokens=20
    )
    check_text(target, prompt, found.token_ids, plain_text(target, prompt, 20))


def test_what_a_config_carries_over_from_its_target_is_read_from_the_weights(
    target: Target, tmp_path: Path
) -> None:
    raw = RAW | {"head_dim": 999, "qkv_bias": True}
    config = EagleDrafter.from_pretrained(
        write(tmp_path, raw, random_weights(RAW), "bin"), target
    ).head.config
    assert isinstance(config, Eagle3HeadConfig)
    assert config.head_dim == HIDDEN // 4
    assert not config.qkv_bias


def test_positions_are_exact_in_half_precision() -> None:
    head = Eagle3Head(Eagle3HeadConfig.from_json(RAW))
    positions = torch.tensor([[1000]])
    before = head.rotary(positions, torch.float32)
    after = head.to(torch.bfloat16).rotary(positions, torch.float32)
    assert torch.equal(before[0], after[0])


class _Session(DraftSession):
    """Proposes one distribution after every token."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        return Proposal(self._logits.view(1, 1, -1))

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        return Proposal(self._logits.expand(1, token_ids.shape[1], -1))


def _proposer(logits: Tensor, vocab: Tensor, sampling: Sampling) -> LiveProposer:
    return LiveProposer(
        _Session(logits),
        lambda: (torch.tensor([[0]]), None, [1]),
        get_policy("chain(proposal='draw')"),
        sampling,
        [torch.Generator().manual_seed(0)],
        vocab_map=vocab,
        vocab_size=7,
    )


def test_drawn_distributions_are_those_of_the_target_vocabulary() -> None:
    logits, vocab = torch.tensor([0.3, -1.0, 2.0, 0.5]), torch.tensor([1, 2, 4, 6])
    sampling = Sampling(temperature=0.7, top_k=3)
    proposer = _proposer(logits, vocab, sampling)
    root = torch.tensor([[ROOT]])
    tree = DraftTree.empty(1, "cpu").grow(proposer.propose(DraftTree.empty(1, "cpu"), root, 2))
    proposer.propose(tree, torch.tensor([[0, 1]]), 1)
    assert set(tree.token_ids[0].tolist()) <= {1, 2, 4, 6}
    expected = torch.zeros(7)
    expected[vocab] = sampling.log_probs(logits[None])[0].exp()
    assert proposer.distributions is not None
    torch.testing.assert_close(proposer.distributions[0], expected.expand(3, -1))


def test_the_emitted_distribution_is_the_targets() -> None:
    """Summed over every token that may be drawn; two target tokens are never drafted."""
    target_probs = torch.tensor([0.05, 0.3, 0.1, 0.15, 0.05, 0.2, 0.15]).double()
    logits, vocab = torch.tensor([0.3, -1.0, 2.0, 0.5]), torch.tensor([1, 2, 4, 6])
    proposer = _proposer(logits, vocab, Sampling(temperature=1.0))
    proposer.propose(DraftTree.empty(1, "cpu"), torch.tensor([[ROOT]]), 1)
    assert proposer.distributions is not None
    distribution = proposer.distributions[0, 0].double()
    emitted = torch.zeros(7).double()
    for token in vocab.tolist():
        chance = min(1.0, float(target_probs[token] / distribution[token]))
        _, _, residual = accept_child(target_probs, [token], distribution, lambda: 2.0)
        emitted[token] += distribution[token] * chance
        emitted += distribution[token] * (1 - chance) * residual
    torch.testing.assert_close(emitted, target_probs, atol=1e-6, rtol=0)


Change = Callable[[dict[str, Any], dict[str, Tensor]], None]


def _without(key: str) -> Change:
    def change(raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
        del (raw if key in raw else weights)[key]

    return change


def _with(**changed: Any) -> Change:
    return lambda raw, weights: raw.update(changed)


def _weight(key: str, value: Tensor) -> Change:
    return lambda raw, weights: weights.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with(vocab_size=97), r"t2d of .* must mark"),
        (_with(vocab_size=960), r"t2d of .* must mark"),
        (_with(target_hidden_size=40), r"fc.weight of .* must have shape \(48, 120\)"),
        (_with(draft_vocab_size=79), r"79 distinct target ids, got 80"),
        (_with(draft_vocab_size="80"), r"draft_vocab_size .* must be >= 1, got '80'"),
        (_without("hidden_size"), r"must have \['hidden_size'\]"),
        (_without("d2t"), r"must hold 'd2t'"),
        (_without("norm.weight"), r"missing \['norm.weight'\]"),
        (_weight("extra", torch.ones(1)), r"not known \['extra'\]"),
        (_weight("d2t", torch.full((DRAFT_VOCAB,), 50)), r"in 0\.\.95, got 129"),
        (_weight("d2t", -torch.arange(DRAFT_VOCAB)), r"got 80, 1 of them distinct"),
        (_weight("embed_tokens.weight", torch.ones(5, 5)), r"\(96, 48\), got \(5, 5\)"),
    ],
)
def test_heads_that_do_not_fit_are_refused(
    change: Change,
    message: str,
    target: Target,
    tmp_path: Path,
) -> None:
    raw, weights = dict(RAW), random_weights(RAW)
    change(raw, weights)
    with pytest.raises((ValueError, NotImplementedError), match=message):
        EagleDrafter.from_pretrained(write(tmp_path, raw, weights, "bin"), target)


def test_a_head_of_another_width_is_refused(target: Target, tmp_path: Path) -> None:
    raw = RAW | {"hidden_size": 24}
    with pytest.raises(ValueError, match=r"target_hidden_size must be tiny's 48, got 24"):
        EagleDrafter.from_pretrained(write(tmp_path, raw, random_weights(raw), "bin"), target)


def test_a_shallow_target_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    name = write(tmp_path, RAW, random_weights(RAW), "bin")
    with pytest.raises(ValueError, match=r"must have num_hidden_layers >= 7, got 6"):
        EagleDrafter.from_pretrained(name, Target(make_model("llama", num_layers=6)))


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_truncated_file_is_refused(kind: str, target: Target, tmp_path: Path) -> None:
    name = write(tmp_path, RAW, random_weights(RAW), kind)
    [file] = [path for path in tmp_path.iterdir() if path.suffix != ".json"]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{file.name} must be whole and readable"):
        EagleDrafter.from_pretrained(name, target)
