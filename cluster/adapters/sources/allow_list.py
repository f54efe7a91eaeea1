"""Decides from which URLs an operator permits adapters."""

from urllib.parse import SplitResult, unquote, urlsplit

from cluster.errors import AdapterSourceRefused

_LOCAL = {"", "file", "local", "dir", "data", "reference", "generic", "git", "cached", "blockcache"}
_LOCAL |= {"filecache", "simplecache", "zip", "tar", "libarchive", "asynclocal", "async_wrapper"}


class AllowList:
    """Entries are a scheme (``s3://``) or a prefix (``https://models.example.com/adapters``).

    A prefix permits itself and everything below it, on the same host and port. Schemes that read
    this machine's files, or wrap another one, are permitted by no entry.
    """

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._entries = tuple(urlsplit(entry) for entry in entries)

    def check(self, url: str) -> None:
        """Refuse a URL that no entry permits.

        Raises:
            AdapterSourceRefused: with the URL, without its credentials.
        """
        shown = without_secrets(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise AdapterSourceRefused(f"{shown}: not a URL: {error}") from error
        if parts.scheme in _LOCAL or "::" in url:
            raise AdapterSourceRefused(f"{shown}: scheme {parts.scheme!r} is never permitted")
        if parts.username is not None or parts.password is not None:
            raise AdapterSourceRefused(f"{shown}: expected a URL without user and password")
        if not url.isprintable() or "\\" in url or _climbs(parts.path):
            raise AdapterSourceRefused(f"{shown}: expected a plain path, without '..'")
        if not any(_permits(entry, parts, port) for entry in self._entries):
            raise AdapterSourceRefused(f"{shown}: not on the operator's list of permitted sources")


def without_secrets(url: str) -> str:
    """Strip a URL for display and logs: no user, password, query or fragment."""
    head, _, _ = url.partition("?")
    head, _, _ = head.partition("#")
    scheme, found, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{found}{host.rpartition('@')[2]}{slash}{path}"[:300]


def _permits(entry: SplitResult, parts: SplitResult, port: int | None) -> bool:
    if entry.scheme != parts.scheme:
        return False
    if not entry.netloc:
        return True
    if (entry.hostname, entry.port) != (parts.hostname, port):
        return False
    prefix = entry.path.rstrip("/")
    return not prefix or parts.path == prefix or parts.path.startswith(f"{prefix}/")


def _climbs(path: str) -> bool:
    return ".." in unquote(unquote(path)).split("/")
