"""The tenants file as it changes: a new content counts once it is whole, a broken one never."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.domain.ids import TenantId
from cluster.errors import ConfigError
from cluster.tenancy.tenants import TenantDirectory, parse_tenants, read_tenants_file

Read = Callable[[Path], bytes]


@dataclass(frozen=True, slots=True)
class TenantsChange:
    """The changes of a new content, by tenant id."""

    added: tuple[TenantId, ...]
    removed: tuple[TenantId, ...]
    changed: tuple[TenantId, ...]  # keys, rights, limits or flags


class FollowedTenants:
    """The tenants file and the last directory that it made. Owned by one caller at a time.

    ``error`` is what is wrong with the file's present content, or None. ``unsettled`` says that
    another look is worth while: the content has changed since the last one, and counts when two
    looks in a row have seen it. So a file that is being written is not taken for a shorter one.
    """

    def __init__(self, path: Path, read: Read = read_tenants_file) -> None:
        """Read the file once.

        Raises:
            ConfigError: a first content that is wrong is refused; there is no last good one yet.
        """
        self._path = path
        self._read = read
        self._content: bytes | None = read(path)  # judged last; None: could not be read
        self._seen: bytes | None = self._content
        self.directory = parse_tenants(self._content, source=str(path))
        self.error: str | None = None
        self.unsettled = False

    def sync(self) -> TenantsChange | None:
        """Read the file again. Returns the changes, or None if ``directory`` is the same.

        The content itself is compared: a file replaced within the clock's resolution, as mounted
        configuration often is, has the modification time of its predecessor.
        """
        try:
            content: bytes | None = self._read(self._path)
            problem = None
        except ConfigError as error:
            content, problem = None, error.message
        settled, self._seen = content == self._seen, content
        self.unsettled = not settled
        if not settled or (content is not None and content == self._content):
            return None
        self._content = content
        if content is None:
            self.error = problem  # perhaps another one than at the last look
            return None
        try:
            directory = parse_tenants(content, source=str(self._path))
        except ConfigError as error:
            self.error = error.message
            return None
        self.error = None
        before, self.directory = self.directory, directory
        return difference(before, directory)


def difference(before: TenantDirectory, after: TenantDirectory) -> TenantsChange:
    """Return the changes from one directory to another."""
    old = {entry.id: entry for entry in before.entries}
    new = {entry.id: entry for entry in after.entries}
    return TenantsChange(
        added=tuple(TenantId(id) for id in new if id not in old),
        removed=tuple(TenantId(id) for id in old if id not in new),
        changed=tuple(TenantId(id) for id in new if id in old and new[id] != old[id]),
    )
