"""Downloads one file over HTTP: streamed, counted, with every redirect checked."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import httpx2

from cluster.adapters.blocking import paced
from cluster.adapters.budget import ByteBudget
from cluster.adapters.sources.allow_list import without_secrets
from cluster.adapters.sources.files import save_stream
from cluster.errors import (
    AdapterSizeMismatch,
    AdapterSourceError,
    AdapterSourceNotFound,
    AdapterSourceRefused,
    AdapterSourceTimeout,
)

MAX_REDIRECTS = 5
_ABSENT = {404, 410}
_FORBIDDEN = {401, 403}


class HttpFiles:
    """Downloads for one fetch; use as an async context manager.

    ``permit`` is asked about every URL, redirects included, before it is opened. ``headers`` go
    to the first host only.
    """

    def __init__(
        self,
        budget: ByteBudget,
        permit: Callable[[str], None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._budget = budget
        self._permit = permit
        self._headers = dict(headers or {})
        self._client = httpx2.AsyncClient(timeout=budget.limits.stall_timeout_s)

    async def __aenter__(self) -> "HttpFiles":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def save(self, url: str, path: Path, *, kind: str) -> httpx2.Headers | None:
        """Download into a new file. Returns the first response's headers, or None if not found.

        Raises:
            AdapterError: as ``AdapterSource.fetch``.
        """
        where = without_secrets(url)
        self._budget.count_file(where)
        try:
            response, first = await self._open(url)
            try:
                if response.status_code in _ABSENT:
                    return None
                self._check_status(response, where)
                declared = _content_length(response, where)
                chunks = paced(
                    _body(response, declared, where), self._budget.limits.stall_timeout_s, where
                )
                await save_stream(
                    path, chunks, self._budget, kind=kind, declared=declared, where=where
                )
            finally:
                await response.aclose()
        except httpx2.TimeoutException as error:
            raise AdapterSourceTimeout(
                f"{where}: no answer within {self._budget.limits.stall_timeout_s:g} s "
                "(stall_timeout_s)"
            ) from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise AdapterSourceRefused(f"{where}: {error}") from error
        except httpx2.HTTPError as error:
            raise AdapterSourceError(f"{where}: {type(error).__name__}: {error}") from error
        return first

    async def _open(self, url: str) -> tuple[httpx2.Response, httpx2.Headers]:
        first: httpx2.Headers | None = None
        headers = {**self._headers, "accept-encoding": "identity"}
        for _ in range(MAX_REDIRECTS + 1):
            self._permit(url)
            request = self._client.build_request("GET", url, headers=headers)
            response = await self._client.send(request, stream=True, follow_redirects=False)
            first = first or response.headers
            if not response.has_redirect_location:
                return response, first
            await response.aclose()
            target = request.url.join(response.headers["location"])
            if (target.scheme, target.host, target.port) != (
                request.url.scheme,
                request.url.host,
                request.url.port,
            ):
                headers = {"accept-encoding": "identity"}
            url = str(target)
        raise AdapterSourceError(
            f"{without_secrets(url)}: expected at most {MAX_REDIRECTS} redirects, found more"
        )

    def _check_status(self, response: httpx2.Response, where: str) -> None:
        status = response.status_code
        if status in _FORBIDDEN:
            raise AdapterSourceNotFound(
                f"{where}: HTTP {status}: absent, or not readable with the credentials at hand"
            )
        if status != 200:
            raise AdapterSourceError(f"{where}: expected HTTP 200, found {status}")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise AdapterSourceError(
                f"{where}: expected the bytes as they are, found content-encoding {encoding!r}"
            )


def _content_length(response: httpx2.Response, where: str) -> int | None:
    found = response.headers.get("content-length")
    if found is None:
        return None
    if not (found.isascii() and found.isdigit() and len(found) < 20):
        raise AdapterSourceError(
            f"{where}: content-length: expected a number, found {found[:40]!r}"
        )
    return int(found)


async def _body(
    response: httpx2.Response, declared: int | None, where: str
) -> AsyncIterator[bytes]:
    received = 0
    try:
        async for chunk in response.aiter_raw():
            received += len(chunk)
            yield chunk
    except httpx2.RemoteProtocolError as error:
        if declared is None or received >= declared:
            raise
        raise AdapterSizeMismatch(
            f"{where}: expected the announced {declared} bytes, found {received}"
        ) from error
