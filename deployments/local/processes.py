"""Ties between a parent process and its descendants, by means of the Linux kernel."""

import ctypes
import os
import signal
import sys
from collections.abc import Collection

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"


def die_with_parent() -> None:
    """Ask, in a child before exec, for SIGKILL when the parent dies; elsewhere do nothing."""
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends; elsewhere do nothing.

    A family that lost its head can then still be found, and ended.
    """
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def reap_orphans(known: Collection[int]) -> None:
    """Collect the exit status of dead children that no ``Popen`` waits for.

    Args:
        known: ids of the children that are waited for elsewhere; they are left alone.
    """
    for child in psutil.Process().children():
        try:
            if child.pid not in known and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
        except (psutil.NoSuchProcess, ChildProcessError):
            continue


def end_processes(processes: Collection[psutil.Process], timeout_s: float) -> list[int]:
    """Kill those of ``processes`` that have not ended after ``timeout_s``.

    Returns:
        The ids of the processes that had to be killed.
    """
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=timeout_s)
    return [process.pid for process in alive]
