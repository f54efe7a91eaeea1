"""One tenant sends its worst, while another one and /health are timed.

usage: python -m benchmarks.hostile URL KEY --victim KEY [--seconds 30] [--out DIR] [CASE ...]
Only servers on this machine are attacked. Fails where /health takes 1 s, a first token 1 s or twice
its quiet time, a front is replaced or grows by 100 MiB, or an answer is above 64 KiB.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil

from benchmarks.hostile.bodies import BODIES
from benchmarks.hostile.connections import CONNECTIONS
from benchmarks.http_load import LOCAL, percentile
from testing.background_threads import BackgroundThreads

MAX_HEALTH_S = 1.0
MAX_TTFT_S = 1.0
MAX_GROWTH_MIB = 100.0
MAX_ANSWER = 64 * 1024
MIB = 1 << 20


@dataclass(frozen=True)
class Seen:
    """Holds what others saw meanwhile. Times are in milliseconds."""

    name: str
    health_ms: float  # the worst
    ttft_ms_p50: float
    ttft_ms_p99: float
    samples: int
    rss_mib: float  # of the front, at its largest
    answers: dict[str, int]
    largest: int  # bytes


class Watch(BackgroundThreads):
    """Times /health and one tenant's first tokens in two threads until it is stopped."""

    def __init__(self, url: str, victim: str, model: str) -> None:
        self._url, self._key, self._model = url, victim, model
        self.health: list[float] = []
        self.ttft: list[float] = []
        self.failures: list[str] = []
        self.rss = 0.0
        super().__init__(self._ask_health, self._ask_token)

    def _ask_health(self) -> None:
        with httpx2.Client(timeout=120) as client:
            while not self._stop.wait(0.05):
                began = time.perf_counter()
                client.get(f"{self._url}/health")
                self.health.append((time.perf_counter() - began) * 1e3)
                self.rss = max([self.rss, *(p.memory_info().rss / MIB for p in fronts(self._url))])

    def _ask_token(self) -> None:
        body = {
            "model": self._model,
            "prompt": "The capital of France is",
            "max_tokens": 2,
            "stream": True,
        }
        headers = {"authorization": f"Bearer {self._key}"}
        with httpx2.Client(timeout=120, headers=headers) as client:
            while not self._stop.wait(0.05):
                began = time.perf_counter()
                with client.stream("POST", f"{self._url}/v1/completions", json=body) as answer:
                    for line in answer.iter_lines():
                        if line.startswith("data: {"):
                            self.ttft.append((time.perf_counter() - began) * 1e3)
                            break
                    if answer.status_code != 200:
                        self.failures.append(str(answer.status_code))


def fronts(url: str) -> list[psutil.Process]:
    """List the processes that listen on the port of ``url``."""
    port = urlsplit(url).port
    pids = {
        item.pid
        for item in psutil.net_connections("tcp")
        if item.status == psutil.CONN_LISTEN and item.laddr and item.laddr.port == port and item.pid
    }
    return [psutil.Process(pid) for pid in pids]


def attack(options: argparse.Namespace, model: str, name: str) -> dict[str, Any]:
    """Run one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.hostile.attack", options.url, options.key, model]
    done = subprocess.run(
        [*command, str(options.seconds), name],
        check=True,
        capture_output=True,
        text=True,
        timeout=options.seconds + 300,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def watch(options: argparse.Namespace, model: str, name: str) -> Seen:
    """Watch what others see while a case runs; nothing runs where ``name`` is empty."""
    with Watch(options.url, options.victim, model) as seen:
        if name:
            result = attack(options, model, name)
        else:
            time.sleep(max(options.seconds, options.quiet))
            result = {"answers": {}, "largest": 0}
    if seen.failures:
        raise RuntimeError(f"{name}: the other tenant was answered {seen.failures[:5]}")
    return Seen(
        name or "quiet",
        round(max(seen.health), 1),
        round(statistics.median(seen.ttft), 1),
        round(percentile(seen.ttft, 0.99), 1),
        len(seen.ttft),
        round(seen.rss, 1),
        result["answers"],
        result["largest"],
    )


def base_model(options: argparse.Namespace) -> str:
    """Ask for the name that the server gives its base."""
    headers = {"authorization": f"Bearer {options.victim}"}
    listed = httpx2.get(f"{options.url}/v1/models", headers=headers).json()["data"]
    return next(str(card["id"]) for card in listed if not card.get("parent"))


def faults(seen: Seen, quiet: Seen) -> list[str]:
    """Name what a case did that it must not do."""
    found = []
    if seen.health_ms > MAX_HEALTH_S * 1e3:
        found.append(f"/health took {seen.health_ms} ms")
    if seen.ttft_ms_p99 > min(MAX_TTFT_S * 1e3, 2 * quiet.ttft_ms_p99):
        found.append(f"first tokens took {seen.ttft_ms_p99} ms, quiet {quiet.ttft_ms_p99} ms")
    if seen.rss_mib > quiet.rss_mib + MAX_GROWTH_MIB:
        found.append(f"the front grew from {quiet.rss_mib} to {seen.rss_mib} MiB")
    if seen.largest > MAX_ANSWER:
        found.append(f"an answer had {seen.largest} bytes")
    return found


def table(rows: list[Seen], quiet: Seen) -> str:
    """Render the page's table."""
    lines = [
        "| case | answers | largest answer, bytes | worst /health, ms | TTFT p50, ms "
        "| TTFT p99, ms | front, MiB | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        answers = ", ".join(f"{count} x {what}" for what, count in sorted(row.answers.items()))
        lines.append(
            f"| {row.name} | {answers} | {row.largest} | {row.health_ms} | {row.ttft_ms_p50} "
            f"| {row.ttft_ms_p99} | {row.rss_mib} | {'; '.join(faults(row, quiet))} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("key", help="of the tenant that attacks")
    parser.add_argument("cases", nargs="*", help="default: all")
    parser.add_argument("--victim", required=True, help="key of the tenant that is timed")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each case")
    parser.add_argument(
        "--quiet", type=float, default=30.0, help="seconds of quiet, before and after"
    )
    parser.add_argument("--out", type=Path, help="folder for hostile.md and hostile.json")
    options = parser.parse_args()
    if urlsplit(options.url).hostname not in LOCAL:
        parser.error("only servers on this machine are attacked")
    model = base_model(options)
    before = {process.pid for process in fronts(options.url)}
    quiet = watch(options, model, "")
    rows = [quiet]
    failed = []
    for name in options.cases or [*BODIES, *CONNECTIONS]:
        rows.append(watch(options, model, name))
        found = faults(rows[-1], quiet)
        failed += [f"{name}: {fault}" for fault in found]
        print(name, json.dumps(asdict(rows[-1])), *found, flush=True)
    rows.append(watch(options, model, ""))
    if {process.pid for process in fronts(options.url)} != before:
        failed.append("a front was replaced")
    text = (
        "# Hostile requests\n\n`python -m benchmarks.hostile`: each case over four connections for "
        f"{options.seconds:g} s, from one tenant. /health and another tenant's first tokens are "
        "timed meanwhile. The first and last rows are without an attack.\n\n"
        f"{table(rows, quiet)}\n"
    )
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "hostile.md").write_text(text, encoding="utf-8")
        report = json.dumps([asdict(row) for row in rows], indent=1)
        (options.out / "hostile.json").write_text(report + "\n", encoding="utf-8")
    print(table(rows, quiet))
    sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
    main()
