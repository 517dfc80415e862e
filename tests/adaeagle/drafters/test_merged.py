"""A network and a look-up that draft one tree: what is united, what is run, whose text it is."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from adaeagle import Target, generate, generate_batch, get_policy
from adaeagle.drafters.base import Drafter, DraftSession, Proposal
from adaeagle.drafters.causal_lm import ModelDrafter
from adaeagle.drafters.merged import MergedDrafter
from adaeagle.drafters.ngram import NgramDrafter
from adaeagle.drafters.suffix import SuffixDrafter
from adaeagle.policy import Budget, Context, Policy
from adaeagle.testing import DrafterContract
from adaeagle.testing.contracts import tiny_pair
from adaeagle.tree import DraftTree, Level

MakePair = Callable[..., tuple[Target, Drafter]]
MakePrompt = Callable[[int, int], list[int]]
PlainText = Callable[..., list[int]]
CheckText = Callable[[Target, Sequence[int], list[int], list[int]], None]
WIDE = "eagle2(depth=5, width=3, nodes=14)"


class Switching(Policy):
    """A beam of which the network drafts in every other round alone, or in no round.

    Args:
        every: the network drafts in each so-manyth round.
        depth: of the tree.
        width: of its beam.
    """

    def __init__(self, every: int, depth: int = 5, width: int = 3) -> None:
        self.every, self.depth, self.width = every, depth, width
        self.trees: list[DraftTree] = []

    def plan(self, context: Context) -> Budget:
        self._is_on = bool(self.every) and context.round % self.every == 0
        return Budget(depth=self.depth, width=self.width, children=3)

    def runs_network(self, tree: DraftTree, rows: Tensor, found: Level) -> bool:
        return self._is_on

    def select(self, tree: DraftTree, budget: Budget) -> Tensor:
        self.trees.append(tree)
        return tree.valid


@pytest.mark.parametrize("spec", ["chain(length=4)", WIDE, "static_tree", "opt_tree(nodes=20)"])
@pytest.mark.parametrize("kind", ["model", "eagle", "eagle3"])
def test_text_is_the_targets_own(
    kind: str,
    spec: str,
    make_pair: MakePair,
    make_prompt: MakePrompt,
    plain_text: PlainText,
    check_text: CheckText,
) -> None:
    target, network = make_pair(kind)
    drafter = MergedDrafter(target, network, SuffixDrafter())
    for seed in range(2):
        prompt = make_prompt(7, seed) * 2
        out = generate(target, drafter, spec, prompt, max_new_tokens=40)
        check_text(target, prompt, out.token_ids, plain_text(target, prompt, 40))


@pytest.mark.parametrize("every", [0, 1, 2, 3])
def test_a_network_that_rests_takes_in_what_it_has_missed(
    every: int, make_pair: MakePair, make_prompt: MakePrompt
) -> None:
    """Texts side by side are as alone, and drafts those of a network that was never away."""
    target, network = make_pair("eagle")
    drafter = MergedDrafter(target, network, NgramDrafter())
    prompts = [make_prompt(size, size) * 2 for size in (9, 4, 6)]
    together = generate_batch(
        target, drafter, Switching(every), prompts, max_batch=2, max_new_tokens=24
    )
    for prompt, out in zip(prompts, together, strict=True):
        plain = generate(target, None, "vanilla", prompt, max_new_tokens=24)
        assert out.token_ids == plain.token_ids
        policy = Switching(every)
        alone = generate(target, drafter, policy, prompt, max_new_tokens=24)
        assert alone.token_ids == plain.token_ids
        if every == 0:
            assert all(r.draft_forwards == 0 for r in alone.rounds)
        num_tokens = 1
        for done, tree in zip(alone.rounds, policy.trees, strict=False):
            if done.draft_forwards:
                best = first_child(target, network, [*prompt, *alone.token_ids[:num_tokens]])
                assert tree.token_ids[0, 0] == best
            num_tokens += done.num_emitted


@torch.inference_mode()
def first_child(target: Target, network: Drafter, text: list[int]) -> int:
    """The network's best token after a text, from a session of its own."""
    ids = torch.tensor([text])
    positions = torch.arange(len(text))[None]
    features = target.forward(ids, positions, None, None, network.feature_layers).chosen
    session = network.begin([text], 99)
    found = session.catch_up(ids[:, 1:], features[:, :-1], [len(text) - 1])
    assert found.logits is not None
    return int(found.logits[0, 0].argmax())


class Tables(Drafter):
    """A network that knows what follows a token, whatever came before."""

    name = "tables"

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # [V, V]

    def begin(self, prompts: Sequence[Sequence[int]], capacity: int) -> "TablesSession":
        return TablesSession(self.logits)


class TablesSession(DraftSession):
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.num_run = 0

    def catch_up(
        self, token_ids: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Proposal:
        return Proposal(self.logits[token_ids[:, -1:]])

    def extend(self, token_ids: Tensor, origins: Tensor) -> Proposal:
        self.num_run += token_ids.numel()
        return Proposal(self.logits[token_ids])


def test_children_are_united_by_parent_and_token() -> None:
    """Token 1 both propose, 2 the network alone, 3 the look-up alone: and so below each."""
    target = tiny_pair(8, 16)[0]
    logits = torch.full((8, 8), -9.0)
    logits[5, 1], logits[5, 2], logits[5, 3], logits[3, 6] = 2.0, 1.0, -20.0, -20.0
    logits[1, 4], logits[1, 6] = 2.0, 1.0
    logits[2, 7], logits[2, 6] = 2.0, 1.0
    policy = Switching(1, depth=2, width=8)
    prompt = [5, 1, 4, 0, 5, 3, 6, 7]
    target.logits = lambda features: torch.eye(8)[5].expand(*features.shape[:-1], 8)  # type: ignore[method-assign]
    drafter = MergedDrafter(target, Tables(logits), SuffixDrafter(order="latest"))
    generate(target, drafter, policy, prompt, max_new_tokens=5)
    tree = policy.trees[0]
    log_probs = logits.log_softmax(-1)
    found = {
        (int(tree.token_ids[0, parent]) if parent >= 0 else -1, token): (prob, score)
        for parent, token, prob, score, valid in zip(
            *(x[0].tolist() for x in (tree.parents, tree.token_ids, tree.log_probs)),
            tree.scores[0].tolist(),  # type: ignore[index]
            tree.valid[0].tolist(),
            strict=True,
        )
        if valid
    }
    none, unlikely = -torch.inf, -16.0
    expected = {
        (-1, 1): (float(log_probs[5, 1]), 0.5),
        (-1, 2): (float(log_probs[5, 2]), none),
        (-1, 3): (unlikely, 0.5),
        (1, 4): (float(log_probs[1, 4]), 0.5),
        (3, 6): (unlikely, 0.5),
        (2, 7): (float(log_probs[2, 7]), none),
        (2, 6): (float(log_probs[2, 6]), none),
    }
    for pair, (prob, score) in expected.items():
        assert found[pair] == pytest.approx((prob, score)), pair
    siblings = tree.token_ids[0, (tree.parents[0] == -1) & tree.valid[0]].tolist()
    assert len(set(siblings)) == len(siblings)


def test_rules_read_either_kind(make_pair: MakePair, make_prompt: MakePrompt) -> None:
    target, network = make_pair("model")
    drafter = MergedDrafter(target, network, SuffixDrafter(score="length"))
    prompt = make_prompt(7, 0) * 2
    for spec in (
        "chain(length=5, stop=confidence(threshold=0.2))",
        "chain(length=5, stop=entropy)",
        "eagle2(depth=4, width=3, stop=score(least=2))",
        "hf_dynamic",
    ):
        out = generate(target, drafter, get_policy(spec), prompt, max_new_tokens=30)
        assert (
            out.token_ids == generate(target, None, "vanilla", prompt, max_new_tokens=30).token_ids
        )


@pytest.mark.parametrize("places", [(0, 0), (1, 0), (1, 1)])
def test_only_a_network_and_a_look_up_are_united(places: tuple[int, int]) -> None:
    target, model = tiny_pair(32, 16)
    pair = (model, SuffixDrafter())
    with pytest.raises(ValueError, match="must be a"):
        MergedDrafter(target, *(pair[place] for place in places))


class TestMerged(DrafterContract):
    @pytest.fixture
    def drafter(self, target: Target) -> Drafter:
        network = tiny_pair(32, 16)[1]
        assert isinstance(network, ModelDrafter)
        return MergedDrafter(target, network, SuffixDrafter())
