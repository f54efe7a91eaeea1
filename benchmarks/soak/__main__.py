"""Keep a local cluster busy with random requests and its books straight. Exit status 1: not so."""

import argparse
import asyncio
import functools
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.soak.client import BrokenAnswer, Call, send
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.limits import judge
from benchmarks.soak.processes import ProcessBook, processor_seconds
from benchmarks.soak.report import SoakReport
from benchmarks.soak.soak_cluster import SoakCluster
from benchmarks.soak.traffic import WRONG_KEY, Planned, Traffic
from cluster.domain.request import Outcome
from testing.at_rest import unrest

SAMPLE_S = 10.0
QUIET_EVERY_S = 300.0
REST_S = 90.0
COUNTERS = (
    "generated_tokens",
    "prompt_tokens",
    "prefix_hit_tokens",
    "preemptions",
    "requests_cancelled",
    "integrity_failures",
    "failed_steps",
    "callback_failures",
)
NEVER = ("integrity_failures", "failed_steps", "callback_failures")


class Soak:
    """One run."""

    def __init__(self, cluster: SoakCluster, options: argparse.Namespace) -> None:
        self._cluster = cluster
        self._options = options
        self._ledger = Ledger()
        self._book = ProcessBook()
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(options.concurrency)
        self._started = time.monotonic()
        self._before: Counter[Outcome] = cluster.metrics().outcomes()
        self._canaries: dict[str, str] = {}
        end = options.minutes * 60
        self._report = SoakReport(
            minutes=options.minutes,
            warm_up_s=min(600.0, end / 4) if options.warm_up is None else options.warm_up * 60,
            seed=options.seed,
            rate=options.rate,
            concurrency=options.concurrency,
            setup={
                "replicas": cluster.local.config.replica.replicas,
                "adapters": sum(1 for _ in Path(str(cluster.local.config.adapters_dir)).iterdir()),
                "slots per replica": cluster.local.config.adapters.slots,
                "KV blocks per replica": cluster.local.config.engine.usual_kv_blocks,
                "time limit of a request": f"{cluster.local.config.front.request_timeout_s:g} s",
                "life of a decision": f"{cluster.local.config.decisions.ttl_s:g} s",
            },
        )

    @property
    def _now(self) -> float:
        return time.monotonic() - self._started

    async def run(self) -> SoakReport:
        """Run until the time is up, then compare everything."""
        options = self._options
        end = options.minutes * 60
        sampler = asyncio.create_task(self._sample())
        cpu = processor_seconds(self._cluster.local.running.pid)
        rng = random.Random(options.seed)
        traffic = iter(
            Traffic(rng, self._cluster.local.config.model, self._cluster.rights, options.rate)
        )
        quiet = min(QUIET_EVERY_S, end / 3)
        try:
            for stop in itertools.chain(_steps(quiet, end), (end,)):
                await self._drive(traffic, stop)
                await self._rest()
        finally:
            sampler.cancel()
            (ended,) = await asyncio.gather(sampler, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            self._report.problems.append(f"sampling the processes ended early: {ended!r}")
        used = processor_seconds(self._cluster.local.running.pid) - cpu
        self._report.busy = used / self._now / (os.cpu_count() or 1)
        self._conclude()
        self._report.write(options.out, self._book)
        return self._report

    async def _drive(self, traffic: Iterator[Planned], until: float) -> None:
        while True:
            planned = next(traffic)
            await asyncio.sleep(planned.gap)
            await self._places.acquire()
            if self._now >= until:
                self._places.release()
                return
            task = asyncio.create_task(self._one(planned))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one(self, planned: Planned) -> None:
        keys = self._cluster.local.keys
        call = Call(
            path=planned.path,
            key=keys[planned.tenant] if planned.tenant else WRONG_KEY,
            body=planned.body,
            stream=planned.stream,
            leave_after=planned.leave_after,
        )
        running, ledger = self._cluster.local.running, self._ledger
        number, kind = planned.number, planned.kind
        limit = self._cluster.local.config.front.request_timeout_s + REST_S
        try:
            async with asyncio.timeout(limit):
                reply = await send(running.host, running.port, call, lambda: ledger.send(number))
        except TimeoutError:
            ledger.lose(number, kind, f"no end within {limit:g} s")
        except (OSError, BrokenAnswer) as error:
            ledger.lose(number, kind, repr(error))
        else:
            ledger.end(number, kind, reply.outcome, planned.allowed, reply.detail)
        finally:
            self._places.release()

    async def _rest(self) -> None:
        """Stop arrivals until everything has ended; then compare the books."""
        began = self._now
        while self._tasks:
            await asyncio.wait(self._tasks)
        off = await self._until_rest(began + REST_S)
        rest = self._now - began
        problems = [
            *off,
            *await asyncio.to_thread(self._cluster.broken_books),
            *self._ledger.compare(counts := await asyncio.to_thread(self._counted)),
        ]
        sent, counted = self._ledger.sent, sum(counts.values())
        problems += await self._ask_canaries()
        self._report.quiet_points.append(
            {
                "at": began,
                "sent": sent,
                "counted": counted,
                "rest_s": rest,
                "problems": problems,
            }
        )
        self._report.problems += [f"minute {began / 60:.1f}: {problem}" for problem in problems]
        print(
            f"{began / 60:6.1f} min  {sent} sent, {counted} counted, at rest after "
            f"{rest:.1f} s, {len(problems)} off {problems or ''} {self._ledger.problems[-3:]}",
            flush=True,
        )

    async def _until_rest(self, deadline: float) -> list[str]:
        for _ in itertools.count():
            off = await self._unrest()
            if not off or self._now > deadline:
                break
            await asyncio.sleep(0.5)
        return off

    async def _unrest(self) -> list[str]:
        metrics = await asyncio.to_thread(self._cluster.metrics)
        counted = sum((metrics.outcomes() - self._before).values())
        behind = self._ledger.sent - counted
        return unrest(metrics) + ([f"{behind} outcomes are missing"] if behind else [])

    def _counted(self) -> Counter[Outcome]:
        return self._cluster.metrics().outcomes() - self._before

    async def _ask_canaries(self) -> list[str]:
        """Ask greedy prompts alone; they count as requests of the books."""
        found = []
        aliases = self._cluster.rights["acme"]
        for model in (self._cluster.local.config.model, aliases[0], aliases[-1]):
            number = -1 - self._ledger.sent
            body = {
                "model": model,
                "prompt": "Three colours are",
                "max_tokens": 12,
                "temperature": 0,
            }
            call = Call(
                "/v1/completions", self._cluster.local.keys["acme"], json.dumps(body).encode()
            )
            running = self._cluster.local.running
            reply = await send(
                running.host, running.port, call, functools.partial(self._ledger.send, number)
            )
            self._ledger.end(number, "canary", reply.outcome, {Outcome.COMPLETED}, reply.detail)
            text = reply.texts.get(0, "")
            if self._canaries.setdefault(model, text) != text:
                found.append(f"{model} answers {text!r}, at first {self._canaries[model]!r}")
        return found

    async def _sample(self) -> None:
        pid, port = self._cluster.local.running.pid, self._cluster.local.redis_port
        while True:
            await asyncio.to_thread(self._book.look, pid, self._now, port)
            await asyncio.sleep(SAMPLE_S)

    def _conclude(self) -> None:
        report, ledger = self._report, self._ledger
        metrics = self._cluster.metrics()
        counted = metrics.outcomes() - self._before
        report.sent = ledger.sent
        report.outcomes = _plain(ledger.ended)
        report.server_outcomes = _plain(counted)
        report.by_kind = {kind: _plain(found) for kind, found in ledger.by_kind.items()}
        report.counters = {name: metrics.total(f"braid_engine_{name}_total") for name in COUNTERS}
        report.problems += ledger.problems
        report.problems += ledger.compare(counted)
        report.problems += [
            f"{name}: {report.counters[name]:g}, expected 0"
            for name in NEVER
            if report.counters[name]
        ]
        end = self._now
        report.drifts = self._book.drifts(report.warm_up_s, end)
        report.store_clients = self._cluster.local.store_clients()
        verdict = judge(report.drifts)
        report.problems += verdict.own
        report.foreign = verdict.foreign
        report.problems += self._book.replaced(end, 3 * SAMPLE_S)


def _steps(width: float, end: float) -> Iterator[float]:
    at = width
    while at < end - width / 2:
        yield at
        at += width


def _plain(counts: Counter[Outcome]) -> dict[str, int]:
    return {outcome.value: count for outcome, count in sorted(counts.items()) if count}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--rate",
        type=float,
        default=1.6,
        help="mean arrivals per second; lower it on a busy machine",
    )
    parser.add_argument(
        "--warm-up",
        type=float,
        help="minutes in which caches fill; default: 10, or a quarter of a short run",
    )
    parser.add_argument("--concurrency", type=int, default=24, help="most requests at once")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--random-adapters", type=int, default=24, help="in addition to the demo's")
    parser.add_argument("--timeout", type=float, default=30, help="a request's time limit, s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--state", type=Path, help="state folder; default: a temporary one")
    options = parser.parse_args()
    if options.rate <= 0 or options.minutes <= 0:
        parser.error("--rate and --minutes are positive")
    if options.warm_up is not None and not 0 <= options.warm_up < options.minutes:
        parser.error("--warm-up is shorter than --minutes")
    folder = options.state or Path(tempfile.mkdtemp(prefix="braid-soak-"))
    print("starting a cluster", flush=True)
    cluster = SoakCluster.start(
        folder,
        replicas=options.replicas,
        random_adapters=options.random_adapters,
        timeout_s=options.timeout,
    )
    try:
        report = asyncio.run(Soak(cluster, options).run())
    finally:
        killed = cluster.local.stop()
    problems: list[Any] = list(report.problems)
    if killed:
        problems.append(f"processes {killed} had to be killed at the end")
    for problem in problems:
        print(f"off: {problem}")
    for growth in report.foreign:
        print(f"Ray's own: {growth}")
    print(f"{report.sent} requests, the cluster took {report.busy:.0%} of the cores")
    if options.state is None and not problems:
        shutil.rmtree(folder)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
