"""Templates: specs with gaps."""

import pytest

from adaeagle.search_space import Float, Int, Tree
from adaeagle.spec import Call, Fixed, Gap
from experiments.sweep.template import has_gap, is_rule, kind_of, parse, searched, space_of


def test_a_name_alone() -> None:
    call = parse(" eagle2 ")
    assert call == Call("eagle2")
    assert list(searched(call)) == ["depth", "width", "nodes"]  # no rule is asked for


def test_what_is_given_is_not_searched() -> None:
    assert list(searched(parse("eagle2(width=10, depth=3)"))) == ["nodes"]
    assert list(searched(parse("eagle2(5)"))) == ["width", "nodes"]
    assert searched(parse("eagle2(5, 4, 8)")) == {}


def test_gaps_for_rules() -> None:
    call = parse("chain(stop=?)")
    assert call.arguments == (("stop", Gap()),)
    assert set(searched(call)) == {"length", "stop"}
    assert has_gap(call)
    both = parse("chain(stop=all_of(?, entropy(threshold=0.2)), length=5)")
    stop = dict(both.arguments)["stop"]
    assert isinstance(stop, Call)
    assert stop.rules == (Gap(), Call("entropy", arguments=(("threshold", Fixed(0.2)),)))
    assert searched(both) == {}
    assert has_gap(both)
    assert not has_gap(parse("chain(stop=all_of(entropy, confidence))"))


@pytest.mark.parametrize("text", ["?", "confidence", "any_of(?, ?)"])
def test_a_rule_alone_stops_a_chain(text: str) -> None:
    call = parse(text)
    assert call.name == "chain"
    assert call.arguments[0][0] == "stop"
    assert set(searched(call)) == {"length", "stop"} if text == "?" else {"length"}


def test_kinds_of_dimensions() -> None:
    space = searched(parse("static_tree"))
    assert isinstance(space["tree"], Tree)
    assert isinstance(space_of(parse("cumulative"))["length"], Int)  # a chain's
    assert isinstance(space_of(Call("confidence"))["threshold"], Float)


def test_a_question_mark_in_a_text_is_one() -> None:
    call = parse("static_tree(tree='what?.json')")
    assert call.arguments == (("tree", Fixed("what?.json")),)


def test_spec_and_kind() -> None:
    call = parse("chain(stop=all_of(confidence(threshold=0.5), entropy), length=5)")
    assert call.spec() == "chain(stop=all_of(confidence(threshold=0.5), entropy), length=5)"
    assert kind_of(call) == "chain(stop=all_of(confidence, entropy))"
    tree = parse("static_tree([[0], [0, 0]])")
    assert tree.spec() == "static_tree(tree=[[0], [0, 0]])"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("confidence", True), ("hf_heuristic", True), ("chain", False), ("all_of", False)],
)
def test_rules_that_a_gap_stands_for(name: str, is_one: bool) -> None:
    assert is_rule(name) == is_one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eagle", "unknown name 'eagle' .*did you mean 'eagle2'"),
        ("chain(stop=confidense)", "did you mean 'confidence'"),
        ("chain(size=3)", "unknown argument 'size' of chain: known: length, stop, proposal"),
        ("chain(length=?)", "must stand for a stop rule, length of chain is none"),
        ("eagle2(width=?)", "must stand for a stop rule, width of eagle2 is none"),
        ("chain(1, None, 'draw', 4)", "too many arguments"),
        ("chain(", "must read like name"),
        ("3", "must read like name or name.*, got '3'"),
        ("chain(length=1 + 1)", r"must be a literal or a nested spec, got '1 \+ 1'"),
        ("chain(**{'length': 2})", "must name its arguments"),
    ],
)
def test_wrong_templates(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)
