"""HTTP to a Braid server: which one, with whose key, and its errors as our own."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import httpx2
import orjson

from cluster.config import Settings, state_folder
from cluster.errors import BraidError, ConfigError, DecisionNotFound, StoreUnavailable
from cluster.tenancy.quickstart import ADMIN_TENANT
from deployments.cli.toolkit.refusal import refused
from deployments.local.lifecycle import find_running
from deployments.local.local_state import StateDir

TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 5.0
EVENT_PREFIX = "data: "
END_OF_EVENTS = "[DONE]"
ARCHIVE_TYPE = "application/octet-stream"
BLOCK_BYTES = 2**18
ANY_INTERFACE = "://0.0.0.0:"


class NoServer(BraidError):
    """No server answers at the address."""

    code = "no_server"


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server and the key to use there."""

    url: str
    key: str


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """The body of a success, and the headers that explain it."""

    body: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def decision_id(self) -> str:
        """Of the decision that the request was served by."""
        return self.headers.get("x-braid-decision", "")

    @property
    def source(self) -> str:
        """Origin of the request's decision."""
        return self.headers.get("x-braid-decision-source", "")


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """A streamed answer: headers first, then pieces of text."""

    headers: ServerAnswer
    pieces: Iterator[str]


def open_state() -> StateDir:
    """Name the state folder; nothing is created."""
    return StateDir(state_folder(Settings()))


def find_target(url: str | None, key: str | None, tenant: str | None, default: str) -> ServerTarget:
    """Find the server of ``--url`` or of this state folder, and the key for it.

    The key is ``--key``, else ``--tenant``'s in the keys file, else ``BRAID_API_KEY``, else that of
    ``default`` in the keys file. Keys of this state folder are not sent to other servers unasked.

    Raises:
        NoServer: no ``--url``, and no cluster of this state folder runs.
        ConfigError: no key can be found.
    """
    state = open_state()
    running = find_running(state)
    own = running.url.replace(ANY_INTERFACE, "://127.0.0.1:") if running is not None else None
    target = (url or own or "").rstrip("/")
    if not target:
        raise NoServer(
            f"no cluster of the state folder {state.root} is running; "
            "start one with `braid up`, or name a server with --url"
        )
    if key is not None:
        return ServerTarget(target, key)
    if tenant is not None:
        return ServerTarget(target, _key_of(state, tenant))
    api_key = Settings().api_key
    if api_key is not None:
        return ServerTarget(target, api_key.get_secret_value())
    if target != own:
        raise ConfigError(
            f"which key is for {target}? Give --key or --tenant, or set BRAID_API_KEY"
        )
    return ServerTarget(target, _key_of(state, default))


def _key_of(state: StateDir, tenant: str) -> str:
    from cluster.tenancy.keys import read_keys

    if not state.keys.exists():
        raise ConfigError(
            f"{state.keys}: no keys file; give --key or set BRAID_API_KEY "
            "(keys are kept for the demo tenants only)"
        )
    keys = read_keys(state.keys)
    if tenant not in keys:
        raise ConfigError(f"{state.keys}: no key of {tenant!r}; there are: {', '.join(keys)}")
    return keys[tenant]


class BraidClient:
    """Speaks to one server as one tenant.

    Args:
        transport: in place of the network, in tests.
    """

    def __init__(self, target: ServerTarget, transport: httpx2.BaseTransport | None = None) -> None:
        self.url = target.url
        self._http = httpx2.Client(
            base_url=target.url,
            headers={"authorization": f"Bearer {target.key}"},
            timeout=httpx2.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            transport=transport,
        )

    def __enter__(self) -> "BraidClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str) -> dict[str, Any]:
        """Read the JSON object at ``path``.

        Raises:
            NoServer: no server answers.
            BraidError: the server's refusal.
        """
        with self._mapped():
            response = self._http.get(path)
        return _object(response)

    def post(self, path: str, body: Mapping[str, Any]) -> ServerAnswer:
        """Send ``body`` and return the answer.

        Raises:
            NoServer: no server answers.
            BraidError: the server's refusal.
        """
        with self._mapped():
            response = self._http.post(path, json=dict(body))
        return ServerAnswer(_object(response), response.headers)

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send ``body`` to take the place of what is at ``path``, and return the answer.

        Raises:
            NoServer: no server answers.
            BraidError: the server's refusal.
        """
        with self._mapped():
            response = self._http.put(path, json=dict(body))
        return _object(response)

    def delete(self, path: str) -> dict[str, Any]:
        """Delete what is at ``path`` and return the answer.

        Raises:
            NoServer: no server answers.
            BraidError: the server's refusal.
        """
        with self._mapped():
            response = self._http.delete(path)
        return _object(response)

    def upload(self, path: str, query: Mapping[str, str], archive: BinaryIO) -> dict[str, Any]:
        """Send a file as it is read, and return the answer.

        Raises:
            NoServer: no server answers.
            BraidError: the server's refusal.
        """
        nbytes = archive.seek(0, os.SEEK_END)
        archive.seek(0)
        headers = {"content-type": ARCHIVE_TYPE, "content-length": str(nbytes)}
        with self._mapped():
            response = self._http.post(
                path, params=dict(query), content=_blocks(archive), headers=headers
            )
        return _object(response)

    def chat(self, body: Mapping[str, Any]) -> ServerAnswer:
        """Ask ``POST /v1/chat/completions`` for a whole answer."""
        return self.post("/v1/chat/completions", body)

    @contextmanager
    def stream_chat(self, body: Mapping[str, Any]) -> Iterator[StreamedAnswer]:
        """Ask ``POST /v1/chat/completions`` for a stream.

        Raises:
            NoServer: no server answers.
            BraidError: the server's refusal, also in the middle of the stream.
        """
        sent = {**body, "stream": True}
        with (
            self._mapped(),
            self._http.stream("POST", "/v1/chat/completions", json=sent) as response,
        ):
            if response.status_code >= 400:
                response.read()
                _object(response)
            yield StreamedAnswer(ServerAnswer({}, response.headers), _pieces(response))

    def decision(self, decision_id: str) -> dict[str, Any] | None:
        """Read a decision; returns None if it is not kept (a fallback, or the store is down)."""
        try:
            return self.get(f"/v1/decisions/{decision_id}")
        except (DecisionNotFound, StoreUnavailable):
            return None

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except httpx2.InvalidURL as error:
            raise ConfigError(f"--url {self.url}: {error}") from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
            raise NoServer(
                f"no server answers at {self.url} ({error}); "
                "see `braid status`, or name another with --url"
            ) from error
        except httpx2.HTTPError as error:
            raise NoServer(
                f"the server at {self.url} closed the connection mid-answer: "
                f"{type(error).__name__} {error}"
            ) from error


def admin_client(url: str | None, key: str | None) -> BraidClient:
    """Open the client of an administrator, by ``--url`` and ``--key``; close it.

    Raises:
        NoServer, ConfigError: as ``find_target``.
    """
    return BraidClient(find_target(url, key, None, ADMIN_TENANT))


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _pieces(response: httpx2.Response) -> Iterator[str]:
    for line in response.iter_lines():
        if not line.startswith(EVENT_PREFIX):
            continue
        data = line.removeprefix(EVENT_PREFIX)
        if data == END_OF_EVENTS:
            return
        event = orjson.loads(data)
        if "error" in event:
            raise refused(event["error"])
        for choice in event["choices"]:
            text = choice["delta"].get("content")
            if text:
                yield text


def _object(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise NoServer(
            f"{response.request.url} answered {response.status_code} with something that is not "
            "Braid's JSON: is that a Braid server?"
        )
    if response.status_code < 400:
        return body
    problem = body.get("error")
    if not isinstance(problem, dict):
        raise NoServer(f"{response.request.url} answered {response.status_code}: {body}")
    error = refused(problem)
    seconds = response.headers.get("retry-after", "")
    if seconds.isascii() and seconds.isdecimal():
        error.retry_after_s = int(seconds)
    raise error
