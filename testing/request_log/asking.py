"""Requests of every outcome, each with what its line must say."""

import asyncio
import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

PROMPT = "The ship sails at dawn and no one may see what this says."
"""Stands in every prompt, and must never stand in a log."""
SECRET = "sk-value-that-nobody-may-see"
LEFT_AFTER_S = 0.3


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """One request that has ended."""

    kind: str
    request: str  # its id
    ended: float  # monotonic, seconds
    status: int | None  # None: given up before an answer
    outcomes: tuple[str, ...]  # one of which its line must have
    tenant: str | None


Kind = Callable[[str], Awaitable[LoggedAnswer]]


class Asker:
    """Asks one front.

    Args:
        keys: by tenant: ``acme``, ``admin``, ``limited`` (a few requests a minute), ``scraper``.
        adapter: one that acme may use.
        long_tokens: of an answer that takes longer than the front's time limit.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        keys: Mapping[str, str],
        adapter: str,
        *,
        long_tokens: int,
    ) -> None:
        self._client = client
        self._keys = keys
        self._adapter = adapter
        self._long_tokens = long_tokens
        self._numbers = itertools.count()

    @property
    def kinds(self) -> dict[str, Kind]:
        """All that end at once, by name."""
        chat, completions = "/v1/chat/completions", "/v1/completions"
        refused = ("rejected_invalid",)
        said = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}]}
        text = {"model": "auto", "prompt": PROMPT, "max_tokens": 2}
        short = {**said, "max_tokens": 2}
        done = ("completed",)
        post, get = self._post, self._get
        return {
            "chat": lambda kind: post(kind, chat, short, done),
            "stream": lambda kind: self._stream(kind, {**short, "stream": True}, done),
            "completions": lambda kind: post(kind, completions, {**text, "n": 2}, done),
            "adapter": lambda kind: post(kind, chat, {**short, "model": self._adapter}, done),
            "route": lambda kind: post(
                kind, "/v1/route", {"model": "auto", "prompt": PROMPT}, done
            ),
            "models": lambda kind: get(kind, "/v1/models", "acme", done),
            "not JSON": lambda kind: post(kind, chat, None, refused),
            "unknown field": lambda kind: post(kind, chat, {**short, PROMPT: SECRET}, refused),
            "wrong value": lambda kind: post(kind, chat, {**short, "top_p": SECRET}, refused),
            "too long": lambda kind: post(
                kind, completions, {**text, "prompt": f"{PROMPT} " * 600}, refused
            ),
            "too large": lambda kind: post(
                kind, completions, {**text, "prompt": PROMPT * 90_000}, refused
            ),
            "no model": lambda kind: post(kind, chat, {**short, "model": PROMPT}, refused),
            "no path": lambda kind: get(kind, "/v1/nothing", None, refused),
            "no method": lambda kind: get(kind, chat, None, refused),
            "no key": lambda kind: get(kind, "/v1/models", None, ("rejected_auth",)),
            "wrong key": lambda kind: get(kind, "/v1/models", "nobody", ("rejected_auth",)),
            "not admin": lambda kind: get(kind, "/admin/v1/status", "acme", ("rejected_auth",)),
            "metrics": lambda kind: get(kind, "/metrics", "scraper", done),
            "no metrics": lambda kind: get(kind, "/metrics", "acme", ("rejected_auth",)),
            "admin": lambda kind: get(kind, "/admin/v1/residency", "admin", done),
            "admin, no adapter": lambda kind: get(
                kind, "/admin/v1/adapters/nothing", "admin", ("failed_adapter",)
            ),
            "quota": lambda kind: post(
                kind, chat, short, ("completed", "rejected_quota"), tenant="limited"
            ),
            "left stream": lambda kind: self._leave(kind, stream=True),
            "left answer": lambda kind: self._leave(kind, stream=False),
        }

    async def overload(self, count: int) -> list[LoggedAnswer]:
        """Send more at once than the replicas take."""
        body = {"model": "auto", "prompt": PROMPT, "max_tokens": 24}
        outcomes = ("completed", "rejected_capacity")
        return await asyncio.gather(
            *(self._post("overload", "/v1/completions", body, outcomes) for _ in range(count))
        )

    async def time_out(self) -> LoggedAnswer:
        """Ask for an answer that the front's time limit ends."""
        body = {"model": "auto", "prompt": PROMPT, "max_tokens": self._long_tokens}
        body |= {"ignore_eos": True}
        return await self._post("time limit", "/v1/completions", body, ("evicted_deadline",))

    async def read_until_broken(self, request: str, begun: asyncio.Event) -> None:
        """Read a long stream until the connection breaks; ``begun`` is set with its first event."""
        body = {"model": "auto", "prompt": PROMPT, "max_tokens": self._long_tokens}
        body |= {"stream": True, "ignore_eos": True}
        headers = self._headers(request, "acme")
        try:
            async with self._client.stream(
                "POST", "/v1/completions", json=body, headers=headers
            ) as answer:
                async for _ in answer.aiter_lines():
                    begun.set()
        except httpx2.HTTPError:
            return

    def _headers(self, request: str, tenant: str | None) -> dict[str, str]:
        headers = {"x-request-id": request}
        if tenant is not None:
            headers["authorization"] = f"Bearer {self._keys.get(tenant, SECRET)}"
        return headers

    def _new_id(self, kind: str) -> str:
        return f"{kind.replace(' ', '-').replace(',', '')}-{next(self._numbers)}-{uuid.uuid4().hex}"

    async def _post(
        self,
        kind: str,
        path: str,
        body: dict[str, Any] | None,
        outcomes: tuple[str, ...],
        tenant: str = "acme",
    ) -> LoggedAnswer:
        request = self._new_id(kind)
        headers = self._headers(request, tenant)
        if body is None:
            content = f'{{"messages": "{PROMPT}'.encode()
            answer = await self._client.post(path, content=content, headers=headers)
        else:
            answer = await self._client.post(path, json=body, headers=headers)
        assert answer.headers["x-request-id"] == request
        return LoggedAnswer(kind, request, time.monotonic(), answer.status_code, outcomes, tenant)

    async def _get(
        self, kind: str, path: str, tenant: str | None, outcomes: tuple[str, ...]
    ) -> LoggedAnswer:
        request = self._new_id(kind)
        answer = await self._client.get(path, headers=self._headers(request, tenant))
        assert answer.headers["x-request-id"] == request
        known = tenant if tenant in self._keys else None
        return LoggedAnswer(kind, request, time.monotonic(), answer.status_code, outcomes, known)

    async def _stream(
        self, kind: str, body: dict[str, Any], outcomes: tuple[str, ...]
    ) -> LoggedAnswer:
        request = self._new_id(kind)
        async with self._client.stream(
            "POST", "/v1/chat/completions", json=body, headers=self._headers(request, "acme")
        ) as answer:
            async for _ in answer.aiter_lines():
                pass
        return LoggedAnswer(kind, request, time.monotonic(), answer.status_code, outcomes, "acme")

    async def _leave(self, kind: str, *, stream: bool) -> LoggedAnswer:
        """Ask for much and go away."""
        request = self._new_id(kind)
        body = {"model": "auto", "prompt": PROMPT, "max_tokens": 200, "stream": stream}
        body |= {"ignore_eos": True}
        content = json.dumps(body).encode()
        fields = {**self._headers(request, "acme"), "content-length": str(len(content))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        url = self._client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"POST /v1/completions HTTP/1.1\r\nhost: x\r\n{head}\r\n".encode() + content)
        await writer.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1 << 20), LEFT_AFTER_S)
        writer.close()
        return LoggedAnswer(
            kind, request, time.monotonic(), None, ("cancelled", "rejected_capacity"), "acme"
        )
