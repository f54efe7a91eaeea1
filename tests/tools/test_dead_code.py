"""The check of dead code: what only tests use is named with a reason, or is deleted."""

from pathlib import Path

import pytest

from tools.dead_code import ALLOWED, check, read_reasons


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "part"
    folder.mkdir()
    (folder / "it.py").write_text(
        "import json\n"
        "from pydantic import field_validator\n"
        "class Used:\n"
        "    field: int = 1\n"
        "    def method(self):\n"
        "        return 1\n"
        "        return 2\n"
        "    @field_validator('field')\n"
        "    def _checked(cls, value):\n"
        "        return value\n"
        "def dead():\n"
        "    return Used()\n"
    )
    return folder


def test_what_nothing_uses_is_listed_with_its_place(package: Path, tmp_path: Path) -> None:
    faults = check([package], {"method": "a library calls it"}, tmp_path)
    assert [fault.partition(": delete")[0] for fault in faults] == [
        "part/it.py:1: unused import 'json'",
        "part/it.py:7: unused unreachable_code 'return'",
        "part/it.py:11: unused function 'dead'",
    ]


def test_an_entry_that_is_not_needed_is_a_fault(package: Path, tmp_path: Path) -> None:
    known = dict.fromkeys(["json", "return", "dead", "method"], "reason")
    assert check([package], known, tmp_path) == []
    (fault,) = check(
        [package],
        {
            **known,
            "Used": "reason",
        },
        tmp_path,
    )
    assert fault == f"{ALLOWED.name}: 'Used' is not unused: delete the entry"


@pytest.mark.parametrize(
    "text", ["name = 1", "['reason']\nnames = 'name'", "['reason']\nnames = [1]", "['reason']", "["]
)
def test_a_list_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected a list of strings|TOML|Unclosed|Invalid|end of"
    ):
        read_reasons(text)


def test_the_project_s_own_list_is_read() -> None:
    assert read_reasons(ALLOWED.read_text(encoding="utf-8"))
