"""Growth and crashes of processes."""

import contextlib
import os
import socket

import pytest

from benchmarks.soak.limits import OWN
from benchmarks.soak.processes import Drift, ProcessBook, ProcessSample, role_of, window

MIB = 2**20


def book(rss: list[float], name: str = "Replica-7", fds: list[int] | None = None) -> ProcessBook:
    """Samples every 10 s."""
    return ProcessBook(
        {
            name: [
                ProcessSample(10.0 * i, int(value * MIB), fds[i] if fds else 40, 12)
                for i, value in enumerate(rss)
            ]
        }
    )


def drift(samples: ProcessBook, warm_up: float = 600.0) -> Drift:
    (found,) = samples.drifts(warm_up, max(item.at for item in samples.samples["Replica-7"]))
    return found


def test_growth_before_the_warm_up_ends_is_not_counted() -> None:
    found = drift(book([100 + i for i in range(60)] + [160] * 300))
    assert found.rss_growth == 0
    assert OWN.problems(found) == []


def test_slow_growth_after_it_is() -> None:
    found = drift(book([100 * (1 + 0.1 * i / 360) for i in range(361)]))
    assert found.rss_growth == pytest.approx(0.07, abs=0.01)
    (problem,) = OWN.problems(found)
    assert problem.startswith("Replica-7: memory grew from 102.1 to 109.6 MiB")


def test_one_peak_is_not_growth() -> None:
    rss = [100.0] * 360
    rss[350] = 400.0
    assert OWN.problems(drift(book(rss))) == []


def test_memory_given_back_is_no_problem() -> None:
    assert OWN.problems(drift(book([200.0] * 180 + [100.0] * 180))) == []


def test_descriptors_that_pile_up_are_found() -> None:
    found = drift(book([100.0] * 361, fds=[40 + i // 30 for i in range(361)]))
    (problem,) = OWN.problems(found)
    assert "descriptors grew" in problem


def test_a_process_that_did_not_live_through_both_windows_has_no_drift() -> None:
    assert book([100.0] * 100).drifts(600.0, 3600.0) == []


def test_windows_do_not_overlap_in_a_short_run() -> None:
    assert window(45.0, 180.0) == 45.0
    assert window(600.0, 3600.0) == 300.0


def test_an_actor_that_was_replaced_is_found_and_an_idle_worker_is_not() -> None:
    samples = book([100.0] * 361, "Replica-7").samples
    samples["Front-8"] = samples["Replica-7"][:100]
    samples["Front-9"] = samples["Replica-7"][101:]
    samples["IDLE-10"] = samples["Replica-7"][50:60]
    assert ProcessBook(samples).replaced(3600.0, 30.0) == [
        "Front-8 was last seen at 990 of 3600 s",
        "Front-9 was started 1010 s after the beginning",
    ]


def test_a_look_at_a_living_process() -> None:
    samples = ProcessBook()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        samples.look(os.getpid(), 1.0, port)
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        stack.enter_context(listener.accept()[0])
        samples.look(os.getpid(), 2.0, port)
    (own,) = [item for name, item in samples.samples.items() if name.endswith(f"-{os.getpid()}")]
    assert own[0].rss > MIB
    assert own[0].threads >= 1
    assert (own[0].store, own[1].store) == (0, 2), "both ends are this process"
    assert own[0].fds == own[1].fds


@pytest.mark.parametrize(
    ("command", "name", "role"),
    [
        (["ray::SERVE_REPLICA::braid#Front#x:ServeReplica:braid:Front.__init__"], "ray", "Front"),
        (["ray::ServeReplica:braid:Replica.run"], "ray::ServeRepli", "Replica"),
        (["ray::DashboardAgent"], "ray", "DashboardAgent"),
        (["ray::IDLE"], "ray::IDLE", "IDLE"),
        (["python", "-m", "deployments.local.supervisor", "/s"], "python", "supervisor"),
        (["valkey-server 127.0.0.1:1"], "valkey-server", "valkey-server"),
    ],
)
def test_roles(command: list[str], name: str, role: str) -> None:
    assert role_of(command, name) == role
