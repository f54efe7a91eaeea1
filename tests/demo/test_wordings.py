"""The score of a router on human wordings, its rivals, and the report."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.errors import ConfigError
from demo.generator.report import render_report
from demo.generator.results import DemoResults
from demo.generator.results_file import write_result_file
from demo.generator.rivals import AlwaysBase, NaiveBayes, Renormalising
from demo.generator.router_texts import FOLLOW_UP
from demo.generator.wording_results import (
    FILE,
    WordingResults,
    WordingRow,
    read_wording_results,
)
from demo.generator.wordings import (
    LACKING,
    OWN,
    Wording,
    is_right,
    read_wordings,
    route_p50_ms,
    score,
)
from router_service.dlp.dlp_router import load_dlp
from router_service.routers.base import RoutedMixture

ROOT = Path(__file__).parents[2]


class Words:
    """Gives each skill that a turn names a half; a later turn more than an earlier one."""

    def route(
        self, text: str, allowed: frozenset[str], earlier: Sequence[str] = ()
    ) -> RoutedMixture:
        named = [w for turn in (text, *reversed(earlier)) for w in turn.split() if w in allowed]
        return RoutedMixture(tuple((w, 0.5 - 0.1 * i) for i, w in enumerate(named[:2])), ())


def _wording(*turns: str, skill: str = "", tenant: str = "", kind: str = "in-domain") -> Wording:
    return Wording(kind=kind, skill=skill, tenant=tenant, turns=turns)


@pytest.mark.parametrize(
    ("wording", "right"),
    [
        (_wording("sql", skill="sql"), True),
        (_wording("sql json", skill="sql"), True),
        (_wording("sql json", skill="json"), False),
        (_wording("hello", skill="sql"), False),
        (_wording("hello"), True),
        (_wording("sql"), False),
        (_wording("dates", skill="dates", tenant="acme"), True),
        (_wording("dates sql", skill="dates", tenant="acme"), False),
        (_wording("sql", "go on", skill="sql"), True),
        (_wording("sql", "json", skill="json"), True),
    ],
    ids=str,
)
def test_right_is_the_wanted_skill_first_or_the_base_alone(wording: Wording, right: bool) -> None:
    assert is_right(Words(), wording) is right


def test_each_turn_that_wants_a_skill_is_asked_by_both_tenants() -> None:
    wordings = [
        _wording("sql", skill="sql"),
        _wording("json", skill="json"),
        _wording("dates sql", skill="dates", tenant="acme", kind="restricted"),
        _wording("hello", kind="chat"),
        _wording("sql", "go on", skill="sql", kind="follow-up"),
        _wording("hello", "go on", kind="follow-up"),
    ]
    assert score(Words(), wordings) == {
        "in-domain": (2, 2),
        "chat": (1, 1),
        "follow-up, skill": (1, 1),
        "follow-up, no skill": (1, 1),
        OWN: (3, 3),
        LACKING: (1, 2),
    }


def test_the_time_is_the_median_of_all() -> None:
    ticks = iter([0, 1, 10, 12, 20, 29])
    wordings = [_wording("a"), _wording("b"), _wording("c")]
    assert route_p50_ms(Words(), wordings, clock=lambda: next(ticks)) == 2000


def test_rivals() -> None:
    texts = {
        "sql": ["list all orders", "all customers in Rome"],
        "general": ["tell me a joke", "what is love"],
        FOLLOW_UP: ["and in Lyon", "only those"],
    }
    bayes = NaiveBayes(texts)
    everything = frozenset({"", "sql"})
    assert bayes.route("all orders in Rome", everything).weights == (("sql", 1.0),)
    assert bayes.route("all orders in Rome", frozenset({""})).weights == ()
    assert bayes.route("a joke", everything).weights == ()
    assert bayes.route("and only those", everything).weights == ()
    assert bayes.route("and only those", everything, ["list all orders"]).weights == (("sql", 1.0),)
    assert AlwaysBase().route("list all orders", everything).weights == ()


def test_the_rival_of_before_gives_what_is_masked_to_what_is_left() -> None:
    skills = frozenset({"cron", "dates", "equations", "json", "shell", "sql", "tickets"})
    router = load_dlp("r", ROOT / "demo" / "router", aliases=skills)
    text = "Maria was born on March 4, 1999."
    allowed = frozenset({"sql", "json"})
    assert router.route(text, allowed).weights == ()
    before = dict(Renormalising(router).route(text, allowed).weights)
    assert sum(before.values()) == pytest.approx(1)


@pytest.mark.parametrize("line", ["{", '{"kind": "chat"}', '{"kind": "chat", "more": 1}'])
def test_a_file_that_is_not_of_wordings_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "test.jsonl"
    with pytest.raises(ConfigError, match=r"test\.jsonl: not a file of wordings"):
        read_wordings(path)
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"test\.jsonl: not a file of wordings"):
        read_wordings(path)


def test_results_are_kept_and_reported(tmp_path: Path) -> None:
    results = WordingResults(
        router_version="abcdef0123456789",
        wordings=40,
        digest="d",
        rows={"chat": WordingRow(n=40, right={"router": 38, "base": 40})},
        p50_ms={"router": 0.312, "base": 0.0},
    )
    path = tmp_path / FILE
    assert read_wording_results(path) is None
    write_result_file(path, results)
    assert read_wording_results(path) == results
    report = render_report(DemoResults.empty(), results)
    assert "| chat | 40 | 95% (83%-99%) | 100% (91%-100%) |" in report
    assert "| time of a decision, median | | 0.31 ms | 0.00 ms |" in report
    assert "version `abcdef012345`" in report
    assert "Human wordings" not in render_report(DemoResults.empty())
    path.write_text("{}")
    with pytest.raises(ConfigError, match="not a results file"):
        read_wording_results(path)
