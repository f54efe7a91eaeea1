"""Reads object stores and other remotes through fsspec's drivers, all optional."""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cluster.adapters.blocking import paced, run_detached
from cluster.adapters.budget import ByteBudget
from cluster.adapters.sources.files import CHUNK_BYTES, save_stream
from cluster.errors import AdapterDriverMissing, AdapterSourceError

_T = TypeVar("_T")


class DriverFiles:
    """Files of one fsspec file system.

    A driver blocks and may hang, so that every call has its own thread, which is left behind
    when the caller gives up; it touches no file of ours.
    """

    def __init__(self, scheme: str, budget: ByteBudget, options: Mapping[str, Any]) -> None:
        self._scheme = scheme
        self._budget = budget
        self._options = options
        self._system: Any = None

    async def connect(self) -> None:
        """Load the driver.

        Raises:
            AdapterDriverMissing: its package is not installed.
        """

        def load() -> Any:
            import fsspec

            return fsspec.filesystem(self._scheme, skip_instance_cache=True, **self._options)

        try:
            self._system = await run_detached(load, "adapter-driver")
        except (ImportError, ValueError) as error:
            raise AdapterDriverMissing(
                f"{self._scheme}://: no driver for this scheme: {error}"
            ) from error

    async def exists(self, url: str) -> bool:
        """Return whether a file exists.

        Raises:
            AdapterSourceError: the driver failed.
        """
        return await self._call(url, lambda: bool(self._system.exists(url)))

    async def save(self, url: str, path: Path, *, kind: str) -> bool:
        """Download into a new file. Returns False if it is absent.

        Raises:
            AdapterError: as ``AdapterSource.fetch``.
        """
        self._budget.count_file(url)
        try:
            size = await self._call(url, lambda: self._system.info(url).get("size"))
            handle = await self._call(url, lambda: self._system.open(url, "rb", cache_type="none"))
        except FileNotFoundError:
            return False
        chunks = paced(self._read(url, handle), self._budget.limits.stall_timeout_s, url)
        await save_stream(path, chunks, self._budget, kind=kind, declared=size, where=url)
        return True

    async def _read(self, url: str, handle: Any) -> AsyncIterator[bytes]:
        while data := await self._call(url, lambda: handle.read(CHUNK_BYTES)):
            yield data
        await self._call(url, handle.close)

    async def _call(self, url: str, work: Callable[[], _T]) -> _T:
        try:
            return await run_detached(work, "adapter-driver")
        except FileNotFoundError:
            raise
        except Exception as error:  # drivers raise their own vendors' errors
            raise AdapterSourceError(f"{url}: {type(error).__name__}: {error}") from error
