"""`braid logs`: what the cluster's processes said, and of one request."""

import json
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.cluster.logs import lines_after
from deployments.local.local_state import StateDir
from deployments.local.log_file import numbered

Braid = Callable[..., Any]


def line(n: int, **fields: object) -> str:
    return json.dumps({"event": "request", "n": n, **fields}) + "\n"


def numbers(output: str) -> list[int]:
    return [json.loads(one)["n"] for one in output.splitlines()]


@pytest.fixture
def log(state: StateDir) -> Path:
    path = state.cluster_log
    numbered(path, 2).write_text(line(1, request="a") + line(2, request="b"))
    numbered(path, 1).write_text("Traceback of a crash\n" + line(3, tenant="acme"))
    path.write_text(line(4, request="a", tenant="acme") + line(5) + '{"event": "cut o')
    return path


def test_the_newest_lines_of_all_files(braid: Braid, log: Path) -> None:
    assert numbers(braid("logs").stdout) == [1, 2, 3, 4, 5]
    assert numbers(braid("logs", "-n", 2).stdout) == [4, 5]


def test_one_request_or_tenant_or_event(braid: Braid, log: Path) -> None:
    assert numbers(braid("logs", "--request", "a").stdout) == [1, 4]
    assert numbers(braid("logs", "--tenant", "acme").stdout) == [3, 4]
    assert numbers(braid("logs", "--tenant", "acme", "--request", "a").stdout) == [4]
    nothing = braid("logs", "--event", "other")
    assert nothing.stdout == ""
    assert "no line of" in nothing.stderr
    assert nothing.exit_code == 0


def test_a_line_behind_a_librarys_text_or_a_cut_line_is_found(braid: Braid, log: Path) -> None:
    bar = "Loading weights:  50%|#####     | 1/2\rLoading weights: 100%|##########| 2/2"
    pick = line(7, request="a", pick={"replica": {"load": 1}})
    log.write_text(
        bar + line(6, request="a")
        + bar.replace("\r", "") + ' {"a"} ' + pick
        + '{"event": "request", "n": 0, "request": "a", "pick": {"load"' + line(8, request="a")
        + 'a traceback of {"n": 9, "request": "a"}\n'
    )  # fmt: skip
    assert numbers(braid("logs", "-n", 3).stdout) == [6, 7, 8]
    assert numbers(braid("logs", "--request", "a").stdout) == [1, 6, 7, 8]
    assert json.loads(braid("logs", "-n", 2).stdout.splitlines()[0]) == json.loads(pick)


def test_before_the_first_start(braid: Braid) -> None:
    result = braid("logs")
    assert result.exit_code == 1
    assert "no log yet; start a cluster with `braid up`" in result.stderr


def test_following_goes_on_in_the_next_file(log: Path) -> None:
    newest = log.open("rb")
    newest.seek(0, 2)
    following = lines_after(newest, log)
    found: list[int] = []
    reader = threading.Thread(
        target=lambda: found.extend(json.loads(one)["n"] for one in islice(following, 3))
    )
    reader.start()
    with log.open("a") as old:
        old.write(line(6))
        old.flush()
        log.replace(numbered(log, 3))
        old.write(line(7))
    log.write_text(line(8))
    reader.join(30)
    assert found == [6, 7, 8]
    newest.close()
