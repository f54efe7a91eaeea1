"""One completion over HTTP: what came, who answered, and when."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

MOST_ATTEMPTS = 10
TERM = re.compile(r"([^@,\s]+)@([0-9a-f]{64});w=([^,\s]+)")


@dataclass(slots=True)
class Reply:
    """One answer; moments are ``time.perf_counter()``."""

    sent: float
    request: str = ""  # its id in the log
    status: int = 0
    code: str = ""
    text: str = ""
    adapters: dict[str, str] = field(default_factory=dict)  # name -> version that answered
    replica: str = ""
    arrivals: list[float] = field(default_factory=list)  # of events with text
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    ended: float = 0.0
    problem: str = ""  # the answer was cut off, or cannot be parsed

    @property
    def ttft(self) -> float:
        """Seconds until the first token."""
        return self.arrivals[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between events."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


def crowds(replicas: int) -> Iterator[int]:
    """Yield how many to send at once, time after time, until every replica has answered one.

    A replica with less to do is preferred, and of idle ones always the same: where answers are
    short, or other load lies unevenly, a few go the same way and more must come.
    """
    for attempt in range(MOST_ATTEMPTS):
        yield replicas * 2 ** (attempt // 3)


async def ask(
    client: httpx2.AsyncClient,
    body: Mapping[str, Any],
    on_arrival: Callable[[float], None] = lambda _: None,
) -> Reply:
    """Send one completion and read it to its end; a failure is noted in the reply."""
    reply = Reply(time.perf_counter())
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            reply.status = answer.status_code
            reply.request = answer.headers.get("x-request-id", "")
            reply.adapters = versions(answer.headers.get("x-braid-adapters", ""))
            reply.replica = answer.headers.get("x-braid-replica", "")
            if answer.status_code == 200 and body.get("stream"):
                await _read_stream(answer, reply, on_arrival)
            else:
                _read_whole(json.loads(await answer.aread()), reply)
    except (httpx2.HTTPError, ValueError, KeyError, IndexError) as error:
        reply.problem = repr(error)
    reply.ended = time.perf_counter()
    return reply


def versions(header: str) -> dict[str, str]:
    """Parse ``x-braid-adapters`` into name -> version."""
    return {name: digest for name, digest, _ in TERM.findall(header)}


def _read_whole(body: dict[str, Any], reply: Reply) -> None:
    if reply.status != 200:
        reply.code = body["error"]["code"]
        return
    reply.text = body["choices"][0]["text"]
    reply.arrivals.append(time.perf_counter())
    _read_usage(body, reply)


async def _read_stream(
    answer: httpx2.Response, reply: Reply, on_arrival: Callable[[float], None]
) -> None:
    last = ""
    async for line in answer.aiter_lines():
        if not line.startswith("data: "):
            continue
        last = line[6:]
        if not last.startswith("{"):
            continue
        event = json.loads(last)
        if "error" in event:
            reply.code = event["error"]["code"]
            return
        _read_usage(event, reply)
        if event["choices"] and (text := event["choices"][0].get("text")):
            reply.text += text
            reply.arrivals.append(time.perf_counter())
            on_arrival(reply.arrivals[-1])
    if last != "[DONE]":
        reply.problem = f"a stream that ended with {last[:80]!r}"


def _read_usage(body: Mapping[str, Any], reply: Reply) -> None:
    details = (body.get("usage") or {}).get("prompt_tokens_details") or {}
    reply.cached_tokens = details.get("cached_tokens") or 0
