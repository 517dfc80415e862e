"""On CUDA: the same texts as on the CPU, in float32, and one host wait a round."""

from collections.abc import Iterator

import pytest
import torch

from adaeagle import EagleDrafter, Generation, ModelDrafter, Target, generate
from adaeagle.decoding.gumbel import uniform_noise
from adaeagle.drafters.base import Drafter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]

POLICIES = (
    "vanilla",
    "chain(length=5)",
    "confidence(threshold=0.2)",
    "static_tree",
    "eagle2",
    "eagle2(depth=4, width=4, nodes=11, stop=entropy(threshold=0.5))",
    "hf_heuristic",
    "adaedl",
)


@pytest.fixture(scope="module", autouse=True)
def exact_products() -> Iterator[None]:
    """Float32 products in full: TF32 would make ties of what is none."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def load(drafter: str, device: str) -> tuple[Target, Drafter]:
    """The bundled model; both drafters come from the same checkpoint folder."""
    target = Target.from_pretrained("mini", device=device, dtype=torch.float32)
    loader = EagleDrafter if drafter == "eagle" else ModelDrafter
    return target, loader.from_pretrained("mini", target)


def tell(target: Target, drafter: Drafter, policy: str, **settings: object) -> Generation:
    prompt = target.encode_chat([{"role": "user", "content": "List the files of this folder."}])
    return generate(target, drafter, policy, prompt, max_new_tokens=64, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("drafter", ["eagle", "model"])
def test_text_is_plain_decoding(drafter: str, policy: str) -> None:
    target, draft_model = load(drafter, "cuda")
    plain = tell(target, draft_model, "vanilla")
    assert tell(target, draft_model, policy).token_ids == plain.token_ids


@pytest.mark.parametrize("policy", POLICIES)
def test_coupled_text_depends_on_the_seed_alone(policy: str) -> None:
    target, drafter = load("eagle", "cuda")
    for seed in range(8):
        settings = {"temperature": 1.0, "sampling": "coupled", "seed": seed}
        plain = tell(target, drafter, "vanilla", **settings)
        assert tell(target, drafter, policy, **settings).token_ids == plain.token_ids


def test_noise_is_the_same_bits_on_every_device() -> None:
    here = uniform_noise(7, 100, 3, 5000, "cpu")
    assert torch.equal(here, uniform_noise(7, 100, 3, 5000, "cuda").cpu())


def test_rounds_have_a_time_for_every_part() -> None:
    out = tell(*load("eagle", "cuda"), "eagle2")
    for record in out.rounds:
        assert record.verify_seconds > 0
        assert record.draft_seconds > 0
        assert record.seconds == pytest.approx(
            record.draft_seconds
            + record.verify_seconds
            + record.policy_seconds
            + record.other_seconds
        )


@pytest.mark.parametrize("policy", ["vanilla", "chain(length=5)"])
def test_fixed_shapes_wait_for_the_device_once_a_round(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, drafter = load("eagle", "cuda")
    tell(target, drafter, policy)
    waits = 0
    read = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> object:
        nonlocal waits
        waits += tensor.is_cuda
        return read(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    out = tell(target, drafter, policy)
    assert waits <= len(out.rounds)
