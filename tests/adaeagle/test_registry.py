"""Specs: parsed, nested, checked, never evaluated."""

from importlib.metadata import EntryPoint

import pytest

from adaeagle import get_policy, registry
from adaeagle.registry import build, lookup, names
from policies import Chain, Confidence, Eagle2, StaticTree, Vanilla


def test_plain_and_called() -> None:
    assert isinstance(get_policy("vanilla"), Vanilla)
    assert isinstance(get_policy(" vanilla() "), Vanilla)
    policy = get_policy("eagle2(depth=3, width=4, nodes=20)")
    assert isinstance(policy, Eagle2)
    assert (policy.depth, policy.width, policy.nodes) == (3, 4, 20)
    positional = get_policy("chain(7)")
    assert isinstance(positional, Chain)
    assert positional.length == 7


def test_calls_nest() -> None:
    policy = get_policy("chain(stop=confidence(threshold=0.25), length=6)")
    assert isinstance(policy, Chain)
    assert policy.length == 6
    assert isinstance(policy.stop, Confidence)
    assert policy.stop.threshold == 0.25
    # A name alone where a rule is expected is that rule.
    named = get_policy("eagle2(stop=confidence)")
    assert isinstance(named, Eagle2)
    assert isinstance(named.stop, Confidence)


def test_a_stop_rule_alone_stops_a_chain() -> None:
    policy = get_policy("confidence(threshold=0.4)")
    assert isinstance(policy, Chain)
    assert isinstance(policy.stop, Confidence)
    assert policy.length == Chain().length


def test_lists_and_strings() -> None:
    policy = get_policy("static_tree([[0], [1], [0, 0]], proposal='top_k')")
    assert isinstance(policy, StaticTree)
    assert (policy.nodes, policy.proposal) == (3, "top_k")


def test_other_names_of_a_policy_are_known_and_not_listed() -> None:
    """AdaEAGLE's rules are called by the paper's name as well as by its predictor's."""
    for other, name in (("adaeagle", "ldlp"), ("adaeagle_ddd", "ldlp_ddd")):
        assert lookup(other) is lookup(name)
        assert name in names()
        assert other not in names()


def test_a_policy_is_handed_back() -> None:
    policy = Chain(3)
    assert get_policy(policy) is policy


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("eagel2", r"unknown name 'eagel2' in adaeagle\.policies: did you mean 'eagle2'\? known: "),
        ("nothing_like_it", "unknown name 'nothing_like_it' in .*: known: .*chain.*vanilla"),
        ("chain(lenght=3)", r"unknown argument 'lenght' of chain: did you mean 'length'\? known: "),
        ("chain(stop=confidense(0.3))", "did you mean 'confidence'"),
        ("chain(stop=confidence(treshold=0.3))", "did you mean 'threshold'"),
        ("chain(1, None, 'draw', 4)", "chain.*too many positional arguments"),
        ("chain(length=1 + 1)", r"a value must be a literal or a nested spec, got '1 \+ 1'"),
        ("chain(length=[i for i in (1, 2)])", "a value must be a literal or a nested spec"),
        ("chain(length=open('x').read())", "a spec must call a plain name"),
        ("__import__('os').getcwd()", "a spec must call a plain name"),
        ("__import__('os')", "unknown name '__import__'"),
        ("chain(**{'length': 3})", "a spec must name its arguments"),
        ("chain(length=3", "must read like name or name"),
        ("chain; vanilla", "must read like name or name"),
        ("", "must read like name or name"),
        ("3", "must read like name or name"),
        ("chain(length=0)", "length must be >= 1, got 0"),
        ("chain(stop=vanilla)", "stop must be a stop rule such as confidence"),
    ],
)
def test_wrong_specs(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_policy(spec)


def test_ours_are_registered() -> None:
    known = {"vanilla", "chain", "static_tree", "eagle2", "confidence"}
    assert known <= set(names())
    for name in names():
        assert callable(lookup(name))


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """What is installed, as the registry sees it."""
    installed: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: installed)
    monkeypatch.setattr(registry, "_entries", registry._entries.__wrapped__)
    return installed


def test_a_name_registered_twice_is_an_error(entries: list[EntryPoint]) -> None:
    ours = EntryPoint("chain", "policies.chain:Chain", registry.POLICIES)
    entries += [ours, ours]
    assert names() == ["chain"]  # one distribution seen twice is no conflict
    entries.append(EntryPoint("chain", "theirs:Chain", registry.POLICIES))
    with pytest.raises(ValueError, match=r"'chain' is registered twice .*policies\.chain:Chain"):
        build("chain")


def test_a_missing_package_is_named(entries: list[EntryPoint]) -> None:
    entries.append(EntryPoint("far", "a_package_nobody_has:Far", registry.POLICIES))
    with pytest.raises(ModuleNotFoundError, match="a_package_nobody_has"):
        build("far")
