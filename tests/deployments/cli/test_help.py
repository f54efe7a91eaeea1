"""Help is quick, complete, and mistakes in options are named."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMANDS = [
    (),
    ("up",),
    ("down",),
    ("status",),
    ("doctor",),
    ("simulate",),
    ("bench", "profile"),
    ("chat",),
    ("route",),
    ("adapters", "list"),
    ("adapters", "add"),
    ("adapters", "show"),
    ("adapters", "rm"),
    ("adapters", "verify"),
    ("policy", "check"),
    ("policy", "show"),
    ("policy", "diff"),
    ("policy", "apply"),
    ("policy", "history"),
    ("policy", "rollback"),
    ("policy", "simulate"),
    ("placement",),
    ("placement", "why"),
    ("placement", "pick"),
    ("tenants", "list"),
    ("model", "fetch"),
    ("train", "adapter"),
    ("train", "router"),
    ("train", "gate"),
    ("train", "milora"),
    ("eval",),
    ("router", "list"),
    ("router", "add"),
    ("router", "show"),
    ("router", "rm"),
    ("router", "import"),
    ("router", "import-gate"),
    ("adapters", "merge"),
    ("mixture", "save"),
    ("mixture", "search"),
]
HEAVY = ("torch", "ray", "transformers", "peft", "numpy", "redis", "fastapi", "huggingface_hub")


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['braid', '--help']\n"
        "from deployments.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [("--help",), ("policy", "check", "FILE", "--json")])
def test_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 2\n")
    command = [str(policy) if word == "FILE" else word for word in arguments]
    code = "from deployments.cli import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *command], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "error: output cannot be written: No space left on device\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(braid: Callable[..., Any], command: tuple[str, ...]) -> None:
    result = braid(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


@pytest.mark.parametrize("command", COMMANDS[1:], ids=" ".join)
def test_an_unknown_option_is_named(braid: Callable[..., Any], command: tuple[str, ...]) -> None:
    result = braid(*command, "--no-such-option")
    assert result.exit_code == 2
    assert "--no-such-option" in result.stderr


def test_an_unknown_command_is_named(braid: Callable[..., Any]) -> None:
    result = braid("upp")
    assert result.exit_code == 2
    assert "upp" in result.stderr
