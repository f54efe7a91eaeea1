"""Fetches an adapter from a URL of an archive, or of a folder of PEFT's files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from cluster.adapters.blocking import run_to_end
from cluster.adapters.budget import ByteBudget
from cluster.adapters.format.manifest import PICKLE_FILE
from cluster.adapters.sources.allow_list import AllowList, without_secrets
from cluster.adapters.sources.archive import ARCHIVE_SUFFIXES, unpack
from cluster.adapters.sources.drivers import DriverFiles
from cluster.adapters.sources.files import KEPT_FILES, REQUIRED_FILES, check_complete
from cluster.adapters.sources.http import HttpFiles
from cluster.adapters.sources.upload import PACKED_FILE
from cluster.errors import AdapterSourceNotFound

_HTTP = {"http", "https"}


class UrlSource:
    """Fetches from ``https://``, ``s3://``, ``gs://`` and other schemes that the operator permits.

    A path that ends in .tar, .tar.gz, .tgz or .zip is an archive; any other is a folder, whose
    files are asked for by name. ``options`` are the fsspec driver's own settings, credentials
    among them.
    """

    def __init__(
        self, url: str, allowed: tuple[str, ...], options: Mapping[str, Any] | None = None
    ) -> None:
        self._url = url
        self._allowed = AllowList(allowed)
        self._options = dict(options or {})

    def describe(self) -> str:
        """Return the URL without credentials or query."""
        return without_secrets(self._url)

    async def fetch(self, into: Path, budget: ByteBudget) -> None:
        """Download the files, and unpack an archive.

        Raises:
            AdapterSourceRefused: not permitted; nothing has been opened.
            AdapterDriverMissing: the scheme needs a package that is not installed.
            AdapterError: as ``AdapterSource.fetch``.
        """
        self._allowed.check(self._url)
        parts = urlsplit(self._url)
        if parts.path.lower().endswith(ARCHIVE_SUFFIXES):
            packed = into / PACKED_FILE
            if not await self._save(self._url, packed, budget):
                raise AdapterSourceNotFound(f"{self.describe()}: no such file")
            where = self.describe()
            await run_to_end(lambda proceed: unpack(packed, into, budget, where, proceed))
            packed.unlink()
            return
        await self._save_folder(into, budget)

    async def _save(self, url: str, path: Path, budget: ByteBudget) -> bool:
        if urlsplit(url).scheme in _HTTP:
            async with HttpFiles(budget, self._allowed.check) as files:
                return await files.save(url, path, kind=path.name) is not None
        driver = DriverFiles(urlsplit(url).scheme, budget, self._options)
        await driver.connect()
        return await driver.save(url, path, kind=path.name)

    async def _save_folder(self, into: Path, budget: ByteBudget) -> None:
        parts = urlsplit(self._url)

        def file(name: str) -> str:
            return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))

        if parts.scheme in _HTTP:
            async with HttpFiles(budget, self._allowed.check) as files:
                for name in KEPT_FILES:
                    await files.save(file(name), into / name, kind=name)
            pickle = False
        else:
            driver = DriverFiles(parts.scheme, budget, self._options)
            await driver.connect()
            for name in KEPT_FILES:
                await driver.save(file(name), into / name, kind=name)
            pickle = await driver.exists(file(PICKLE_FILE))
        if not any((into / name).exists() for name in REQUIRED_FILES) and not pickle:
            raise AdapterSourceNotFound(f"{self.describe()}: none of PEFT's files is there")
        check_complete(into, where=self.describe(), pickle=pickle)
