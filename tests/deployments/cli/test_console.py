"""Bars are as long as their share, and lines to be copied stay whole."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deployments.cli.cluster.showcase import PROMPT_BY_SKILL, prompt_for, python_lines, show_next
from deployments.cli.toolkit import console
from deployments.local.quickstart import DEMO_RIGHTS

shares = st.floats(-1, 2)


@given(share=shares, width=st.integers(1, 60))
def test_a_bar_never_leaves_its_width(share: float, width: int) -> None:
    drawn = console.bar(share, width)
    assert len(drawn) <= width
    assert drawn.count("█") == width if share >= 1 else drawn.count("█") <= width
    assert share > 0 or drawn == ""


@given(one=shares, other=shares)
def test_more_is_never_shorter(one: float, other: float) -> None:
    def eighths(text: str) -> int:
        return sum(8 if cell == "█" else console.EIGHTHS.index(cell) for cell in text)

    low, high = sorted((one, other))
    assert eighths(console.bar(low)) <= eighths(console.bar(high))


def render(mixture: list[dict[str, object]]) -> list[str]:
    target = Console(file=io.StringIO(), width=80)
    target.print(console.mixture_table(mixture))
    return target.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_weights_above_one_shrink_the_others() -> None:
    large, small = render([{"name": "a", "weight": 2.0}, {"name": "b", "weight": -1.0}])
    assert large.count("█") == 2 * small.count("█")
    assert "-1.000" in small
    assert render([]) == ["the base model alone"]


def test_the_curl_line_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    show_next("http://h:1", "brd_x", "It's [bold]", "auto")
    lines = capsys.readouterr().out.splitlines()
    (curl,) = [line for line in lines if line.startswith("curl")]
    assert "brd_x" in curl
    assert "[bold]" in curl


def test_the_python_lines_are_python() -> None:
    compile("\n".join(python_lines("http://h:1", "k", 'say "hi"', "auto")), "lines", "exec")


def test_every_demo_tenant_is_shown_a_prompt_of_its_own() -> None:
    shown: list[str] = []
    for aliases in DEMO_RIGHTS.values():
        shown.append(prompt_for(aliases, shown))
        assert shown[-1] in {PROMPT_BY_SKILL[alias] for alias in aliases}
    assert len(set(shown)) == len(shown)
    assert prompt_for(("unheard-of",)) == prompt_for(())


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(console, "err", target)
    with console.counter() as report:
        report("asking the hub", "", 0, None)
        report("training", "loss 1.5", 1, 2)
    lines = target.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["asking the hub", "training 1/2 loss 1.5"]
