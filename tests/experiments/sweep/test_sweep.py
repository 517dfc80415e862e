"""The command: what it finds, leaves behind, and refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from adaeagle import get_policy, registry
from adaeagle.cost.model import CostModel
from adaeagle.search_space import Int
from adaeagle.testing.toy_trace import VOCAB_SIZE, toy_folder, toy_trace
from adaeagle.trace.folder import load_texts
from adaeagle.trace.trace import Trace
from experiments.sweep import template
from experiments.sweep.scoring import Scorer
from policies import Chain, StaticTree

MakeFolder = Callable[..., Any]


def last_line(found: Any) -> dict[str, Any]:
    assert found.code == 0, found.stderr
    line: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return line


def best_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "best.json").read_text())
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where `sweep` writes."""
    return tmp_path / "out"


def rows_of(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(out / "trials.parquet").to_pylist()
    return rows


def test_a_known_optimum_is_found(sweep: Any, made: Any, out: Path) -> None:
    line = last_line(sweep(made, "--policies", "chain", "--trials", 25))
    assert line["policy"] == "chain(length=3)"
    family = best_of(out)["families"]["chain"]
    assert family["published"]["policy"] == "chain(length=12)"
    assert family["best"]["tokens_per_second"] > 1.2 * family["published"]["tokens_per_second"]
    assert best_of(out)["speedup"] > 1


def test_a_grid_ends_when_it_is_visited(sweep: Any, made: Any, out: Path) -> None:
    line = last_line(sweep(made, "--policies", "chain", "--sampler", "grid", "--trials", 99))
    assert line["num_trials"] == 7
    assert line["policy"] == "chain(length=4)"
    assert {row["chain.length"] for row in rows_of(out)} == {1, 4, 7, 10, 12, 13, 16}


def test_a_choice_among_policies_and_rules(
    sweep: Any, make_folder: MakeFolder, tmp_path: Path, out: Path
) -> None:
    """No length fits texts that accept six tokens and none in turn, but the draft knows which."""
    made = make_folder(cost=CostModel.linear(constant=1e-3, draft=4e-3, verify=1e-2))
    lengths = [[6, 5, 4, 3, 2, 1, 0] * 4] * 2
    log_probs = [
        torch.where(torch.arange(12) < torch.tensor(own).unsqueeze(1), 0.9, 0.05).log()
        for own in lengths
    ]
    turns = tmp_path / "turns"
    toy_folder(turns, toy_trace(lengths, k_max=16, log_probs=log_probs))
    arguments = ("--policies", "chain", "chain(stop=?)", "--trials", 20)
    policy = get_policy(last_line(sweep(made._replace(trace=turns), *arguments))["policy"])
    assert isinstance(policy, Chain)
    assert policy.stop is not None
    families = best_of(out)["families"]
    fixed, stopped = (families[name]["best"] for name in ("chain", "chain(stop=?)"))
    assert stopped["tokens_per_second"] > 1.05 * fixed["tokens_per_second"]
    # Every rule was tried as it was published, before anything else.
    published = {row["chain(stop=?).stop"] for row in rows_of(out)[:10]}
    assert {"confidence", "cumulative", "entropy", "hf_heuristic"} <= published


def test_a_rule_that_cannot_be_had_is_left_out(
    sweep: Any, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another package breaks, and one that was made for other models."""

    def check(self: Any, identify: Any) -> None:
        raise ValueError(f"made for another target than {identify().target}")

    monkeypatch.setattr("policies.entropy.Entropy.check", check)
    is_rule = template.is_rule

    def broken(name: str) -> bool:
        if name == "cumulative":
            raise ImportError("no module named numbers")
        return is_rule(name)

    monkeypatch.setattr("experiments.sweep.preparing.is_rule", broken)
    found = sweep(made, "--policies", "chain(stop=?)", "--trials", 1)
    last_line(found)
    assert "? leaves out cumulative: no module named numbers" in found.stderr
    assert "? leaves out entropy: made for another target than toy" in found.stderr
    refused = sweep(made, "--policies", "chain(stop=entropy)", "--trials", 1)
    assert_refused(refused, "--policies", "made for another target than toy")


def test_static_trees_begin_with_the_best_one(sweep: Any, made: Any, out: Path) -> None:
    """Two trials: the tree that was published, then the one that is fitted to these texts."""
    found = sweep(made, "--policies", "static_tree", "--strict", "--trials", 2)
    policy = get_policy(last_line(found)["policy"])
    file = get_policy(f"static_tree(tree='{out / 'static_tree.json'}')")
    for each in (policy, file):
        assert isinstance(each, StaticTree)
        assert (each.depth, each.nodes) == (3, 3)
    assert "were not recorded" in rows_of(out)[0]["refused"]
    # A fitted tree is nothing that was published.
    assert best_of(out)["families"]["static_tree"]["published"] is None


def test_a_default_that_is_out_of_bounds_is_compared_with_all_the_same(
    sweep: Any, made: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chain, "search_space", {"length": Int(1, 8)})
    last_line(sweep(made, "--policies", "chain", "--trials", 2))
    published = best_of(out)["families"]["chain"]["published"]
    assert (published["policy"], published["trial"]) == ("chain", None)
    scorer = Scorer(Trace(load_texts(made.trace), VOCAB_SIZE), CostModel.load(made.cost))
    speed = scorer.whole_score(get_policy("chain(length=12)"), 0.0).tokens_per_second
    assert published["tokens_per_second"] == pytest.approx(speed)


def test_what_is_left_behind(run: Any, made: Any, out: Path) -> None:
    policies = ("--policies", "chain", "chain(stop=confidence)")
    found = run("sweep", *made.options, *policies, "--trials", 14, "--out", out)
    line = last_line(found)
    assert "the fastest on the tune split" in found.stdout
    names = {path.name for path in out.iterdir()}
    assert CostModel.load(out / "cost.json").to_json() == CostModel.load(made.cost).to_json()
    assert {"best.json", "trials.csv", "trials.parquet", "history.png", "study.db"} <= names
    assert (out / "history.png").read_bytes().startswith(b"\x89PNG")
    best = best_of(out)
    assert best["policy"] == line["policy"]
    trace = Trace(load_texts(made.trace), VOCAB_SIZE)
    score = Scorer(trace, CostModel.load(made.cost)).whole_score(get_policy(best["policy"]), 0.0)
    assert best["tokens_per_second"] == pytest.approx(score.tokens_per_second)
    assert best["seconds"] == pytest.approx(score.total_seconds)
    assert best["models"]["target"] == "toy"
    table = pyarrow.parquet.read_table(out / "trials.parquet")
    assert table.num_rows >= 14
    assert pyarrow.csv.read_csv(out / "trials.csv").column_names == table.column_names
    assert set(table["template"].to_pylist()) == {"chain", "chain(stop=confidence)"}
    assert {"complete"} <= set(table["state"].to_pylist()) <= {"complete", "fail"}


def test_trials_are_what_any_reader_of_optuna_reads(run: Any, made: Any, out: Path) -> None:
    """`optuna-dashboard sqlite:///.../study.db` opens it like this."""
    run("sweep", *made.options, "--policies", "chain", "--trials", 1, "--out", out)
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{out / 'study.db'}")
    first = study.get_trials()[0]
    assert first.params == {"chain.length": 12}
    # The seconds of every prompt, by its number.
    assert sorted(first.intermediate_values) == list(range(12))
    assert first.value == pytest.approx(sum(first.intermediate_values.values()))


def test_the_same_command_goes_on(sweep: Any, made: Any) -> None:
    assert last_line(sweep(made, "--policies", "chain", "--trials", 3))["num_trials"] == 3
    more = sweep(made, "--policies", "chain", "--trials", 5)
    assert last_line(more)["num_trials"] == 5
    assert "3 of 5 trials were finished" in more.stderr
    assert last_line(sweep(made, "--policies", "chain", "--trials", 5))["num_trials"] == 5


def test_time_that_is_over_is_enough_for_what_was_published(
    sweep: Any, made: Any, out: Path
) -> None:
    """Every rule once, though there is no second left for any; the next call goes on."""
    arguments = ("--policies", "chain(stop=confidence)", "chain(stop=entropy)", "--trials", 40)
    line = last_line(sweep(made, *arguments, "--seconds", 0.001))
    assert line["num_trials"] == 2
    families = best_of(out)["families"]
    assert all(each["best"] == each["published"] for each in families.values())
    assert last_line(sweep(made, *arguments, "--seconds", 0.001))["num_trials"] == 3


def test_ctrl_c_loses_no_finished_trial_and_runs_the_other_again(
    sweep: Any, made: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, begun = Scorer.score, list[Any]()

    def interrupted(*given: Any) -> Any:
        begun.append(given)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return score(*given)

    arguments = ("--policies", "chain", "chain(stop=confidence)", "--trials", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", interrupted)
        found = sweep(made, *arguments)
    assert found.code == 130
    assert "1 of 3 trials are kept" in found.stderr
    last_line(sweep(made, *arguments))
    rows = rows_of(out)
    assert [row["state"] for row in rows] == ["complete", "fail", "complete", "complete"]
    name = "chain(stop=confidence).stop.threshold"
    assert rows[1][name] == rows[2][name] == 0.4  # as it was published


def test_clearly_slower_policies_are_stopped_early_and_never_win(
    sweep: Any, made: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.sweep.scoring.BLOCK", 6)
    line = last_line(sweep(made, "--policies", "chain", "--trials", 25))
    judged = {row["policy"]: row for row in rows_of(out) if row["judged_on"] is not None}
    assert judged
    assert line["policy"] == "chain(length=3)"
    assert line["policy"] not in judged
    # What the whole would have come to, told from half of it.
    scorer = Scorer(Trace(load_texts(made.trace), VOCAB_SIZE), CostModel.load(made.cost))
    for spec, row in judged.items():
        whole = scorer.whole_score(get_policy(spec), 0.0).tokens_per_second
        assert row["judged_on"] == 6
        assert row["tokens_per_second"] == pytest.approx(whole, rel=0.05)


def test_nothing_is_stopped_early_where_that_is_not_wanted(
    sweep: Any, made: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.sweep.scoring.BLOCK", 6)
    arguments = ("--sampler", "random", "--pruner", "none")
    last_line(sweep(made, "--policies", "chain", "--trials", 12, *arguments))
    assert all(row["judged_on"] is None for row in rows_of(out))


def test_equal_policies_are_replayed_once(
    sweep: Any, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, lengths = Scorer.score, list[int]()

    def counted(self: Scorer, policy: Any, decision: float) -> Any:
        lengths.append(getattr(policy, "length", 0))
        return score(self, policy, decision)

    monkeypatch.setattr(Scorer, "score", counted)
    arguments = ("--policies", "chain", "--trials", 30, "--sampler", "random")
    line = last_line(sweep(made, *arguments))
    drafting = [length for length in lengths if length]
    assert sorted(drafting) == list(range(1, 17))  # there are no others
    assert line["num_trials"] == 16
    assert line["num_repeated"] > 0


def test_trials_are_shared_fairly_and_settings_are_kept_in_the_tables(
    sweep: Any, made: Any, out: Path
) -> None:
    """One template has nothing to tune, one 16 settings, one has many and some cannot run."""
    templates = ("chain(length=2)", "chain", "chain(stop=confidence)")
    found = sweep(made, "--policies", *templates, "--trials", 24)
    line = last_line(found)
    rows = [row for row in rows_of(out) if row["state"] == "complete"]
    assert len(rows) == line["num_trials"] == 24
    settings = [row["policy"] for row in rows]
    assert len(set(settings)) == len(settings)
    counts = [sum(row["template"] == text for row in rows) for text in templates]
    assert counts[0] == 1
    assert abs(counts[1] - counts[2]) <= 2
    assert f"{line['num_repeated']} more repeated a setting" in found.stderr
    text = (out / "trials.csv").read_text()
    assert all(f'"{setting}"' in text for setting in settings)


def test_what_cannot_run_does_not_count(
    sweep: Any, made: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd lengths, here; they are half of what the sampler draws."""
    even = classmethod(lambda cls, arguments: arguments["length"] % 2 == 0)
    monkeypatch.setattr(Chain, "is_feasible", even, raising=False)
    arguments = ("--policies", "chain", "--trials", 8, "--sampler", "random")
    line = last_line(sweep(made, *arguments))
    states = [row["state"] for row in rows_of(out)]
    assert line["num_trials"] == states.count("complete") == 8
    assert line["num_infeasible"] == states.count("pruned") > 0


def test_plain_decoding_is_a_candidate(sweep: Any, make_folder: MakeFolder, out: Path) -> None:
    dear = make_folder(cost=CostModel.linear(constant=1e-3, draft=1.0, verify=1e-2))
    found = sweep(dear, "--policies", "chain", "--trials", 4)
    line = last_line(found)
    assert (line["policy"], line["speedup"]) == ("vanilla", 1.0)
    assert "nothing that was tried is faster than plain decoding" in found.stderr
    assert best_of(out)["families"]["chain"]["best"]["policy"].startswith("chain(")


def test_a_study_is_of_the_files_that_its_templates_name(
    sweep: Any, made: Any, tmp_path: Path
) -> None:
    tree = tmp_path / "tree.json"
    tree.write_text("[[0], [0, 0]]")
    arguments = ("--policies", f"static_tree(tree='{tree}')", "--trials", 1)
    last_line(sweep(made, *arguments))
    tree.write_text("[[0]]")
    assert_refused(sweep(made, *arguments), "--out", "holds another run")


def test_a_password_is_in_no_file_and_no_message(sweep: Any, made: Any, out: Path) -> None:
    url = "nosuchdatabase://me:s3cret@host/db"
    found = sweep(made, "--policies", "chain", "--storage", url)
    assert_refused(found, "--storage", "nosuchdatabase://me:***@host/db")
    assert "s3cret" not in found.stderr
    assert all(b"s3cret" not in path.read_bytes() for path in out.iterdir())


def test_speed_against_nodes(run: Any, made: Any, out: Path) -> None:
    """Longer chains are faster up to three tokens, and verify more for each token."""
    arguments = ("--objectives", "speed-and-nodes", "--sampler", "random", "--trials", 40)
    found = run("sweep", *made.options, "--policies", "chain", *arguments, "--out", out, "--json")
    assert last_line(found)["policy"] == "chain(length=3)"
    front = best_of(out)["pareto"]
    assert [point["policy"] for point in front] == [f"chain(length={n})" for n in (3, 2, 1)]
    speeds = [point["tokens_per_second"] for point in front]
    nodes = [point["verified_per_token"] for point in front]
    assert speeds == sorted(speeds, reverse=True)
    assert nodes == sorted(nodes, reverse=True)
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_of_the_test_split_is_read(
    sweep: Any, make_folder: MakeFolder, tmp_path: Path
) -> None:
    """Its shards are torn to pieces: whoever opened one would know."""
    splits = ["tune", "test"] * 6
    made, whole = make_folder(splits=splits), make_folder(splits=splits, name="whole")
    torn = [
        path
        for folder in ("texts", "tokens", "nodes", "features")
        for path in (made.trace / folder).iterdir()
        if int(path.name.partition(".")[0]) % 2
    ]
    assert len(torn) == 4 * 6
    for path in torn:
        path.write_bytes(b"the test split")
    with pytest.raises(ValueError, match="must be of"):
        load_texts(made.trace)
    arguments = ("--policies", "chain", "static_tree", "--trials", 3, "--strict")
    lines = [
        last_line(sweep(one, *arguments, "--study", name, "--out", tmp_path / name))
        for name, one in (("torn", made), ("sound", whole))
    ]
    assert lines[0]["policy"] == lines[1]["policy"]
    assert lines[0]["tokens_per_second"] == lines[1]["tokens_per_second"]
    assert best_of(tmp_path / "torn")["num_prompts"] == 6


IDEA = '''
import torch
from typing import ClassVar
from adaeagle import Budget, Policy
from adaeagle.search_space import SearchSpace, Int

class Halves(Policy):
    """Drafts half as many tokens as it is told."""

    search_space: ClassVar[SearchSpace] = {"twice": Int(2, 20)}
    proposal = "draw"

    @classmethod
    def is_feasible(cls, arguments):
        return arguments["twice"] % 2 == 0

    def __init__(self, twice: int = 4) -> None:
        self.length = twice // 2

    def plan(self, context):
        return Budget(depth=self.length, width=1)
'''


def test_a_policy_of_another_package_is_swept(
    sweep: Any, run: Any, made: Any, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by its entry point alone."""
    about = tmp_path / "site" / "halves-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: halves\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[adaeagle.policies]\nhalves = halves_idea:Halves\n")
    (tmp_path / "site" / "halves_idea.py").write_text(IDEA)
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry._entries.cache_clear()
    try:
        found = sweep(made, "--policies", "halves", "--trials", 30, "--sampler", "grid")
        assert last_line(found)["policy"] == "halves(twice=6)"
        odd = [row for row in rows_of(out) if row["halves.twice"] % 2]
        assert odd
        assert all(row["state"] == "pruned" for row in odd)
        shown = run("policies", "halves", "--space", "--json")
        assert json.loads(shown.stdout)[0]["high"] == 20
    finally:
        monkeypatch.undo()
        registry._entries.cache_clear()


def assert_refused(found: Any, *fragments: str) -> None:
    assert found.code == 2
    assert found.stdout == ""
    last = found.stderr.splitlines()[-1]
    assert last.startswith("adaeagle: ")
    assert "Traceback" not in found.stderr
    for fragment in fragments:
        assert fragment in last


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--policies", "chian"), ("--policies 'chian'", "did you mean 'chain'")),
        (("--policies", "chain(length=?)"), ("--policies", "must stand for a stop rule")),
        (("--policies", "chain(length=0)"), ("--policies", "length must be >= 1, got 0")),
        (("--policies", "chain", "chain"), ("--policies", "templates must differ", "twice")),
        (("--sampler", "luck"), ("--sampler", "tpe, gp, cmaes", "'luck'")),
        (("--pruner", "median"), ("--pruner", "wilcoxon, none", "'median'")),
        (("--objectives", "nodes"), ("--objectives", "speed-and-nodes", "'nodes'")),
        (
            ("--objectives", "speed-and-nodes", "--pruner", "wilcoxon"),
            ("--pruner wilcoxon must have one objective",),
        ),
        (("--trials", "0"), ("--trials", ">= 1", "'0'")),
        (("--seconds", "0"), ("--seconds must be > 0, got 0",)),
        (("--cost", "nowhere.json"), ("--cost", "nowhere.json")),
        (("--trace", "nowhere"), ("TRACE", "nowhere", "manifest.json")),
        (
            ("--policies", "chain", "--storage", "no://such"),
            ("--storage", "an Optuna storage URL", "'no://such'"),
        ),
        (
            ("--policies", "chain", "--storage", "sqlite:////no/such/folder/x.db"),
            ("--storage", "/no/such/folder"),
        ),
        (
            ("--policies", "chain", "--storage", "journal:/no/such/folder/x.log"),
            ("--storage", "/no/such/folder"),
        ),
    ],
)
def test_wrong_input(
    arguments: tuple[str, ...], fragments: tuple[str, ...], sweep: Any, made: Any
) -> None:
    assert_refused(sweep(made, "--trials", 3, *arguments), *fragments)


def test_a_database_that_does_not_answer(sweep: Any, made: Any) -> None:
    pytest.importorskip("psycopg", reason="the extra `sweep` is not installed")
    url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    found = sweep(made, "--policies", "chain", "--storage", url)
    assert_refused(found, "--storage", "that can be reached", url, "refused")


def test_no_feasible_value(sweep: Any, made: Any) -> None:
    found = sweep(made, "--policies", "eagle2(depth=1, width=2, nodes=9)", "--trials", 3)
    assert_refused(found, "--policies must have a feasible value", "nodes=9")


def test_nothing_that_was_recorded(sweep: Any, made: Any) -> None:
    """Chains were recorded, to a depth of 16: no tree can be replayed without its draft model."""
    arguments = ("--policies", "eagle2(depth=4, width=4)", "--strict", "--trials", 3)
    found = sweep(made, *arguments)
    assert_refused(found, "--policies must have a feasible value", "were not recorded")


def test_a_study_of_another_trace(
    sweep: Any, made: Any, make_folder: MakeFolder, tmp_path: Path
) -> None:
    other = make_folder(accepted=4, name="other", max_new_tokens=99)
    arguments = ("--policies", "chain", "--trials", 1, "--storage", f"journal:{tmp_path}/shared")
    last_line(sweep(made, *arguments))
    found = sweep(other, *arguments, "--out", tmp_path / "another")
    assert_refused(found, "--study 'sweep'", "another one: trace was")
    found = sweep(other, *arguments)
    assert_refused(found, "--out", "holds another run: ", "trace was")
    dearer = tmp_path / "dearer.json"
    CostModel.linear(constant=1.0, draft=1.0, verify=1.0).save(dearer)
    found = sweep(made._replace(cost=dearer), *arguments, "--out", tmp_path / "third")
    assert_refused(found, "--study 'sweep'", "another one: cost was")


def test_a_trace_without_tuning_texts(sweep: Any, make_folder: MakeFolder) -> None:
    found = sweep(make_folder(splits=["test"] * 12), "--policies", "chain")
    assert_refused(found, "TRACE", "must have a position to draft at")
