"""Refusals of commands that write a result, before any work: folders, names, numbers."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.toolkit.interruption import INTERRUPTED
from router_service.artifacts.outputs import CHECKPOINT_FILE
from training import adapter
from training.dlp import train_router as router
from training.evaluation import evaluation_run as evaluation
from training.flow import train_gate as gate
from training.milora import train_milora as milora

Braid = Callable[..., Any]


def said(result: Any) -> str:
    """Return the one message of a command that has failed as it should."""
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ")
    return str(result.stderr.replace("\n", ""))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, ...]:
    """Name a path below which no folder can be made."""
    file = tmp_path / "file"
    file.write_text("mine")
    return Path("/proc/x"), file, file / "sub"


@pytest.fixture
def commands(
    adapters: Callable[..., Path], tmp_path: Path
) -> dict[str, tuple[tuple[object, ...], str]]:
    """Commands that write a folder, without it, and how it is given. Nothing else that they are
    given is there, so that what they refuse first shows what they look at first."""
    root, none = adapters("a", "b"), tmp_path / "none"
    pair = ("--adapter", root / "a", "--adapter", root / "b")
    return {
        "adapter": (("train", "adapter", "--data", none), "--out"),
        "router": (("train", "router", "--data", none), "--out"),
        "gate": (("train", "gate", "--data", none, *pair), "--out"),
        "milora": (("train", "milora", "--data", none, "--alias", "forms"), "--out"),
        "save": (("mixture", "save", "--mixture", "a=1,b=1", "--adapters", root), "--out"),
        "search": (
            ("mixture", "search", "--data", none, "--names", "a,b", "--adapters", root),
            "--out",
        ),
        "merge": (("adapters", "merge", "--mixture", "a=1", "--adapters", root), ""),
        "import": (("router", "import", none, "--encoder", none, "--adapters", none), "--out"),
        "import-gate": (("router", "import-gate", none, *pair, "--base", none), "--out"),
    }


KINDS = (
    "adapter", "router", "gate", "milora", "save", "search", "merge", "import", "import-gate",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_made_is_refused_first(
    braid: Braid,
    commands: dict[str, tuple[tuple[object, ...], str]],
    folders: tuple[Path, ...],
    kind: str,
) -> None:
    arguments, option = commands[kind]
    for out in folders:
        result = braid(*arguments, *([option] if option else []), out)
        assert f"out: expected a folder that can be written, found {out}" in said(result)
        overwritten = braid(*arguments, *([option] if option else []), out, "--overwrite")
        assert "out: expected a folder" in said(overwritten)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("save", "merge")])
def test_a_folder_that_can_be_made_is_not_made_by_a_command_that_fails(
    braid: Braid, commands: dict[str, tuple[tuple[object, ...], str]], tmp_path: Path, kind: str
) -> None:
    arguments, option = commands[kind]
    said(braid(*arguments, option, tmp_path / "new" / "out"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "none/report.json"])
def test_eval_tries_its_file_first(
    braid: Braid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("was scored"))
    result = braid("eval", tmp_path / "d.jsonl", "--out", tmp_path / name)
    assert "out: expected a file that can be written, found" in said(result)


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        ("adapter", ("--lr", "inf"), "learning_rate"),
        ("adapter", ("--alpha", "nan"), "alpha"),
        ("adapter", ("--seed", "9" * 20), "seed"),
        ("router", ("--lr", "nan"), "learning_rate"),
        ("router", ("--seed", "9" * 20), "seed"),
        ("gate", ("--lr", "inf"), "learning_rate"),
        ("gate", ("--temperature", "inf"), "temperature"),
        ("milora", ("--lr", "inf"), "learning_rate"),
        ("milora", ("--alpha", "inf"), "alpha"),
        ("milora", ("--alias", "a b"), "alias"),
        ("milora", ("--alias", ""), "alias"),
        ("import-gate", ("--temperature", "0"), "temperature"),
        ("import-gate", ("--temperature", "-1"), "temperature"),
        ("import-gate", ("--temperature", "nan"), "temperature"),
        ("save", ("--mixture", "a=1e39"), "--mixture: a=1e39"),
        ("save", ("--mixture", "a=-1001"), "--mixture: a=-1001"),
        ("merge", ("--mixture", "a=1e200"), "--mixture: a=1e200"),
    ],
)
def test_values_that_cannot_be_are_named(
    braid: Braid,
    commands: dict[str, tuple[tuple[object, ...], str]],
    tmp_path: Path,
    kind: str,
    options: tuple[str, ...],
    field: str,
) -> None:
    arguments, option = commands[kind]
    out = tmp_path / "out"
    result = braid(*arguments, *options, *([option] if option else []), out)
    assert said(result).startswith(f"error: {field}: ")
    assert not out.exists()


def test_a_name_of_a_folder_that_cannot_be_served(braid: Braid, tmp_path: Path) -> None:
    out = tmp_path / "my forms"
    result = braid("train", "milora", "--data", tmp_path / "none", "--out", out)
    assert "expected the name of an adapter" in said(result)
    assert "'my forms'" in said(result)


def test_a_routers_option_needs_a_router(braid: Braid, tmp_path: Path) -> None:
    result = braid("eval", tmp_path / "d.jsonl", "--router-option", "top_p=0.3")
    assert "--router-option top_p=0.3: needs --router as well" in said(result)


def test_a_mixture_does_not_take_the_place_of_its_adapter(
    braid: Braid, adapters: Callable[..., Path]
) -> None:
    root = adapters("a", "b")
    options = ("--mixture", "a=1,b=1", "--adapters", root, "--overwrite")
    result = braid("mixture", "save", "--out", root / "a", *options)
    assert "out: expected a folder of its own" in said(result)
    assert (root / "a" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("kind", "module"),
    [("adapter", adapter), ("router", router), ("gate", gate), ("milora", milora)],
)
def test_an_interrupted_training_tells_of_resume(
    braid: Braid,
    commands: dict[str, tuple[tuple[object, ...], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    module: Any,
) -> None:
    out = tmp_path / "out"
    keeps = False

    def train(*_: Any, **__: Any) -> Any:
        if keeps:
            out.mkdir()
            (out / CHECKPOINT_FILE).touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, f"train_{kind}", train)
    arguments, _ = commands[kind]
    before = braid(*arguments, "--out", out)
    assert before.exit_code == INTERRUPTED
    assert "--resume" not in before.stderr
    keeps = True
    result = braid(*arguments, "--out", out)
    assert result.exit_code == INTERRUPTED
    assert "run the same command with --resume to continue" in result.stderr


def test_ctrl_c_while_importing_is_quiet() -> None:
    code = (
        "import signal\n"
        "from deployments.cli.toolkit.interruption import importing\n"
        # A process in the background of a script inherits that it ignores Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with importing():\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    except BaseException:\n"
        "        raise ModuleNotFoundError('a package that was interrupted') from None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (INTERRUPTED, b"interrupted\n")


def test_ctrl_c_after_importing_is_as_before() -> None:
    from deployments.cli.toolkit.interruption import importing

    before = signal.getsignal(signal.SIGINT)
    with importing():
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_a_large_batch_needs_no_more_than_the_data(braid: Braid, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    lines = [{"text": f"{label} {n}", "label": label} for n in range(20) for label in "ab"]
    data.write_text("\n".join(json.dumps(line) for line in lines))
    options = ("--batch-size", 10**7, "--epochs", 1, "--threads", 1)
    result = braid("train", "router", "--data", data, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.stderr
    assert "1 steps" in result.stdout
