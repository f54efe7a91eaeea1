"""A family that lost its head is found, and ended."""

import subprocess
import sys
import textwrap

import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the Linux kernel does it")


def run(code: str) -> str:
    """Run ``code`` in a process of its own: what it asks of the kernel lasts as long as it."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_orphans_are_adopted_ended_and_reaped() -> None:
    said = run("""
        import subprocess, sys, psutil
        from deployments.local.processes import adopt_orphans, end_processes, reap_orphans
        adopt_orphans()
        parent = (
            "import subprocess as s;"
            "print(s.Popen(['sleep', '600'], stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
        )
        child = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True)
        orphan = int(child.stdout)
        assert [p.pid for p in psutil.Process().children(recursive=True)] == [orphan]
        family = psutil.Process().children(recursive=True)
        assert end_processes(family, 0.2) == [orphan]
        own = subprocess.Popen(["true"])
        while psutil.Process(own.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        reap_orphans({own.pid})
        assert [p.pid for p in psutil.Process().children()] == [own.pid]
        assert own.wait() == 0
        print(psutil.pid_exists(orphan))
    """)
    assert said.split() == ["False"]


@pytest.mark.slow
def test_a_child_dies_with_its_parent() -> None:
    said = run("""
        import subprocess, sys
        parent = (
            "import subprocess, os;"
            "from deployments.local.processes import die_with_parent;"
            "p = subprocess.Popen(['sleep', '600'], preexec_fn=die_with_parent);"
            "print(p.pid, flush=True); os.kill(os.getpid(), 9)"
        )
        print(subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True).stdout)
    """)
    try:
        psutil.Process(int(said)).wait(10)
    except psutil.NoSuchProcess:
        return
