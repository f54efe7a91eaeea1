"""Shows what another user of the machine can reach of a local cluster: HTTP, and nothing else.

Run as root on the machine of a ``braid up``: ``python -m benchmarks.local_user [STATE_DIR]``. It
becomes ``nobody``, then tries every file of the state folder, the environment of each process, and
every port: as HTTP, as Redis, and with a call to the methods of Serve, of Ray's control service and
of the links that would run code or read state. It exits with 1 if anything is granted.
"""

import asyncio
import encodings.idna  # noqa: F401 # loaded before nobody may read the interpreter's folder
import json
import os
import pwd
import socket
import sys
from pathlib import Path

import grpc
import psutil

from cluster.config import Settings, state_folder
from deployments.local.lifecycle import find_running
from deployments.local.local_state import StateDir

TIMEOUT_S = 3.0
CALLS = (
    "/ray.serve.ASGIService/HandleRequest",
    "/ray.serve.ASGIService/HandleRequestWithRejection",
    "/ray.serve.ASGIService/HandleRequestStreaming",
    "/ray.rpc.InternalKVGcsService/InternalKVGet",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/braid.Link/Connect",
)
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)
CLOSED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)  # not gRPC at all


def listening(family: list[psutil.Process]) -> dict[int, str]:
    """Return the TCP ports that a cluster's processes listen on, each with its process."""
    found = {}
    for process in family:
        for one in process.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN:
                found[one.laddr.port] = " ".join(process.cmdline()[:3])[-60:]
    return found


def become_nobody() -> None:
    """Drop every right of this process."""
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)


def readable(paths: list[str]) -> list[str]:
    """Return those of ``paths`` that this process may open."""
    found = []
    for path in paths:
        try:
            with open(path, "rb"):
                found.append(path)
        except OSError:
            continue
    return found


def exchange(port: int, sent: bytes) -> bytes:
    """Return the first bytes that a port answers to ``sent``; empty if it answers none."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as one:
            one.settimeout(TIMEOUT_S)
            one.sendall(sent)
            return one.recv(256)
    except OSError:
        return b""


def granted_by_text(port: int, front: int) -> list[str]:
    """Return what a port grants to lines of text: HTTP without a key, Redis without a password."""
    found = []
    for path in ("/", "/metrics", "/api/jobs/", "/logs"):
        head = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
        words = exchange(port, head).split(b" ", 2)
        if port != front and words[0].startswith(b"HTTP/") and words[1] == b"200":
            found.append(f"GET {path}")
    answer = exchange(port, b"PING\r\n")
    if answer.startswith(b"+PONG"):
        found.append("Redis PING")
    return found


async def granted_by_grpc(port: int) -> list[str]:
    """Return the calls that a port neither refuses nor fails to understand."""
    found = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in CALLS:
            call = channel.unary_unary(method)
            try:
                await call(b"", timeout=TIMEOUT_S)
                found.append(method)
            except grpc.aio.AioRpcError as error:
                if error.code() in CLOSED:
                    return found
                if error.code() not in REFUSALS:
                    found.append(f"{method}: {error.code().name} {str(error.details())[:80]}")
    return found


def try_everything(family: list[psutil.Process], state: StateDir, front: int) -> int:
    """Print what was tried and what was granted; returns the number of grants."""
    ports = listening(family)
    private = [str(path) for path in state.root.rglob("*") if path.is_file()]
    environments = [f"/proc/{process.pid}/environ" for process in family]
    become_nobody()
    grants = readable(private) + readable(environments)
    for port, process in sorted(ports.items()):
        given = granted_by_text(port, front) + asyncio.run(granted_by_grpc(port))
        print(f"port {port:5}  {process:60}  {', '.join(given) or 'nothing'}", flush=True)
        grants += given
    print(f"{len(private)} files, {len(environments)} environments, {len(ports)} ports tried")
    print(f"granted: {json.dumps(grants) if grants else 'nothing but HTTP without a key'}")
    return len(grants)


def main() -> None:
    """Try as another user everything that the cluster of a state folder offers."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else state_folder(Settings())
    state = StateDir.open(folder)
    running = find_running(state)
    if running is None:
        sys.exit(f"no cluster of the state folder {folder} runs; start one with `braid up`")
    if os.getuid() != 0:
        sys.exit("only root can become another user; run this with sudo")
    supervisor = psutil.Process(running.pid)
    family = [supervisor, *supervisor.children(recursive=True)]
    sys.exit(1 if try_everything(family, state, running.port) else 0)


if __name__ == "__main__":
    main()
