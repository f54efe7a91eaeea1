"""Fetches an adapter's repository from the Hugging Face hub, or a compatible server."""

import re
from pathlib import Path
from urllib.parse import quote, urlsplit

from cluster.adapters.budget import ByteBudget
from cluster.adapters.sources.files import KEPT_FILES, REQUIRED_FILES, check_complete
from cluster.adapters.sources.http import HttpFiles
from cluster.errors import AdapterError, AdapterSourceNotFound, AdapterSourceRefused

HUB_ENDPOINT = "https://huggingface.co"

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPO = re.compile(rf"{_PART}(/{_PART})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSource:
    """The adapter of ``repo_id`` at ``revision`` (branch, tag or commit).

    Only the adapter's own files are asked for. All are of the commit that the first answer
    names, so that a push in between mixes nothing. The hub's redirects to its file servers are
    followed; to plain HTTP only where ``endpoint`` itself is; ``token`` goes to the endpoint's
    host alone.
    """

    def __init__(
        self,
        repo_id: str,
        revision: str = "main",
        *,
        endpoint: str = HUB_ENDPOINT,
        token: str | None = None,
    ) -> None:
        self._repo_id = repo_id
        self._revision = revision
        self._endpoint = endpoint.rstrip("/")
        self._token = token

    def describe(self) -> str:
        """Return the repository and revision."""
        return f"hub {self._repo_id}@{self._revision}"[:300]

    async def fetch(self, into: Path, budget: ByteBudget) -> None:
        """Download the adapter's files.

        Raises:
            AdapterSourceNotFound: no such repository or revision, or it holds no adapter.
            AdapterError: the id or revision is not well formed; or as ``AdapterSource.fetch``.
        """
        if not _REPO.fullmatch(self._repo_id) or ".." in self._repo_id:
            raise AdapterError(
                f"hub: expected an id such as 'owner/name', found {self._repo_id[:100]!r}",
                param="source.hub",
            )
        if not _REVISION.fullmatch(self._revision) or ".." in self._revision:
            raise AdapterError(
                f"revision: expected a branch, tag or commit, found {self._revision[:100]!r}",
                param="source.revision",
            )
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        revision = self._revision
        async with HttpFiles(budget, self._permit, headers) as files:
            for name in KEPT_FILES:
                url = f"{self._endpoint}/{self._repo_id}/resolve/{quote(revision, safe='')}/{name}"
                answer = await files.save(url, into / name, kind=name)
                commit = answer.get("x-repo-commit", "") if answer is not None else ""
                if _COMMIT.fullmatch(commit):
                    revision = commit
        if not any((into / name).exists() for name in REQUIRED_FILES):
            raise AdapterSourceNotFound(
                f"{self.describe()}: no such repository or revision, or none of PEFT's files"
            )
        check_complete(into, where=self.describe(), pickle=False)

    def _permit(self, url: str) -> None:
        if urlsplit(url).scheme not in {"https", urlsplit(self._endpoint).scheme}:
            raise AdapterSourceRefused(f"{self.describe()}: a redirect away from https")
