"""Measure the CPU that a front spends on each streamed token.

Its replica follows a script: no model, no Ray. Another server is measured alike with --url and
--pid.
"""

import argparse
import asyncio
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.relay import relay_report
from benchmarks.relay.front import LOOPS
from benchmarks.relay.measure import ENDLESS, Figures, RelayCase, idle_share, run_case
from benchmarks.relay.rig import Rig, rig
from benchmarks.relay.streams import StreamsAsked, TokenCount, events_in, logprobs_in, words_in
from benchmarks.shared.machine import cpu_info, load_average, usable_cores
from cluster.config import AppConfig

PROGRAM = "python -m benchmarks.relay"
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Tell me everything that you know about bridges."}]
KINDS: dict[str, tuple[dict[str, Any], TokenCount]] = {
    "chat": ({}, words_in),
    "log-probabilities": ({"logprobs": True, "top_logprobs": 2}, logprobs_in),
}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--interval", type=float, default=0.05, help="seconds between steps")
    parser.add_argument("--windows", type=int, default=5, help="measured for each case")
    parser.add_argument("--window", type=float, default=3.0, help="seconds of each")
    parser.add_argument("--probes", type=int, default=100, help="first tokens timed for each case")
    parser.add_argument("--model", default=AppConfig().model, help="whose tokenizer is used")
    parser.add_argument("--loop", choices=list(LOOPS), default="uvloop", help="of the front")
    parser.add_argument("--url", help="of another server, such as http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, help="of that server's process")
    parser.add_argument("--max-tokens", type=int, default=ENDLESS, help="of a stream there")
    parser.add_argument("--key", default="none", help="for that server")
    parser.add_argument("--name", default="Braid's front", help="of the server, for the page")
    parser.add_argument("--beside", type=Path, help="relay.json of another server, for the page")
    parser.add_argument("--out", type=Path, help="folder for relay.md and relay.json")
    options = parser.parse_args(arguments)
    if (options.url is None) != (options.pid is None):
        parser.error("--url and --pid: give both or neither")
    return options


async def _front_cases(options: argparse.Namespace) -> list[Figures]:
    async with rig(options.model, options.interval, options.loop) as running:
        await _warm_up(running)
        idle = await idle_share(running.pid, 3.0)
        found = []
        for kind in options.kinds:
            fields, count = KINDS[kind]
            body = {"model": running.model, "messages": MESSAGES, **fields}
            asked = StreamsAsked("127.0.0.1", running.port, CHAT, running.key, body, count)
            for streams in options.streams:
                await running.sent()
                case = RelayCase(kind, streams, options.interval)
                found.append(await _measure(options, case, asked, running.pid, idle, running.sent))
        return found


async def _warm_up(running: Rig) -> None:
    body = {"model": running.model, "messages": MESSAGES}
    asked = StreamsAsked("127.0.0.1", running.port, CHAT, running.key, body, words_in)
    for number in range(20):
        client = await asked.stream(f"warm-{number}", max_tokens=3, at_least=3)
        await client.begun
        client.close()


async def _other_cases(options: argparse.Namespace) -> list[Figures]:
    address = urlsplit(options.url)
    if address.hostname is None or address.port is None:
        raise SystemExit(f"--url: {options.url} has no host or no port")
    idle = await idle_share(options.pid, 3.0)
    found = []
    for kind in options.kinds:
        body = {"model": options.model, "messages": MESSAGES, "ignore_eos": True, **KINDS[kind][0]}
        asked = StreamsAsked(address.hostname, address.port, CHAT, options.key, body, events_in)
        for streams in options.streams:
            case = RelayCase(kind, streams, 0.0)
            found.append(await _measure(options, case, asked, options.pid, idle, None))
    return found


async def _measure(
    options: argparse.Namespace,
    case: RelayCase,
    asked: StreamsAsked,
    pid: int,
    idle: float,
    sent: Any,
) -> Figures:
    found = await run_case(
        case,
        asked,
        pid,
        idle=idle,
        windows=options.windows,
        window_s=options.window,
        probes=options.probes,
        sent=sent,
        max_tokens=options.max_tokens,
    )
    print(
        f"{case.name:20}{case.streams:5} streams: {found.cpu_us_per_token:7.1f} us a token, "
        f"{found.tokens_per_s:7.0f} tokens/s, {found.core_share:.2f} of a core, "
        f"relay {found.relay_ms_p50:.1f} ms, first token {found.ttft_ms_p50:.1f} ms",
        flush=True,
    )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _options(arguments)
    beside = None if options.beside is None else relay_report.RelayRun.read(options.beside)
    load = load_average()
    cases = _front_cases(options) if options.url is None else _other_cases(options)
    found = asyncio.run(cases)
    if options.out is not None:
        setup = {
            "Server": options.name,
            "CPU": f"{cpu_info()[0]}, {usable_cores()} cores",
            "Load before the run": f"{load:.1f}",
            "Windows": f"{options.windows} of {options.window:g} s for each case; medians",
        }
        command = shlex.join([*PROGRAM.split(), *(arguments or sys.argv[1:])])
        run = relay_report.RelayRun(command, setup, tuple(found))
        for path in relay_report.write(options.out, run, beside):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
