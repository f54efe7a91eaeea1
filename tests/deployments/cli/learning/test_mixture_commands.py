"""``braid adapters merge`` and ``braid mixture``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.format.manifest import read_manifest
from cluster.errors import ConfigError
from deployments.cli.learning.mixture import parse_mixture
from router_service.artifacts import read_manifest as read_router


def test_a_mixture_is_merged_into_a_peft_folder(
    braid: Callable[..., Any], adapters: Callable[..., Path], tmp_path: Path
) -> None:
    root = adapters("a", "b")
    out = tmp_path / "out"
    result = braid("adapters", "merge", out, "--mixture", "a=0.5,b=-0.25", "--adapters", root)
    assert result.exit_code == 0, result.stderr
    assert "2 adapters by cat" in result.stdout
    assert read_manifest(out)[0].rank == 4
    again = braid("adapters", "merge", out, "--mixture", "a=0.5,b=1", "--adapters", root)
    assert again.exit_code == 1
    assert "holds an adapter already" in again.stderr


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        (("--mixture", "a=0.7,b=-1.2"), {"a": 0.7, "b": -1.2}),
        (("--average", "a,b"), {"a": 0.5, "b": 0.5}),
    ],
)
def test_a_mixture_is_saved_as_a_router(
    braid: Callable[..., Any],
    adapters: Callable[..., Path],
    tmp_path: Path,
    options: tuple[str, ...],
    weights: dict[str, float],
) -> None:
    out = tmp_path / "router"
    result = braid("mixture", "save", "--out", out, *options, "--adapters", adapters("a", "b"))
    assert result.exit_code == 0, result.stderr
    manifest = read_router(out)
    assert manifest.kind == "static"
    assert manifest.candidates == tuple(weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mixture", "a=1,z=1"), "no adapter 'z'; there are: a, b"),
        (("--mixture", "a=x"), "--mixture: a=x: not a number"),
        (("--mixture", "a=1", "--average", "a"), "either --mixture or --average"),
        ((), "either --mixture or --average"),
        (("--average", "a,,b"), "--average: '' is empty"),
    ],
)
def test_mistakes_are_named(
    braid: Callable[..., Any],
    adapters: Callable[..., Path],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    root = adapters("a", "b")
    result = braid("mixture", "save", "--out", tmp_path / "o", *arguments, "--adapters", root)
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", "")
    assert not (tmp_path / "o").exists()


def test_mixtures_are_read() -> None:
    assert parse_mixture("a=0.5, b=-2,c") == {"a": 0.5, "b": -2.0, "c": 1.0}
    for wrong in ("", "=1", "a=1,a=2", "a=inf", "a=nan", "a=1,"):
        with pytest.raises(ConfigError, match="--mixture"):
            parse_mixture(wrong)
