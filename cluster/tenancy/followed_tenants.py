"""The tenants file as it changes: a new content counts once it is whole, a broken one never."""

from dataclasses import dataclass
from pathlib import Path

from cluster.domain.ids import TenantId
from cluster.errors import ConfigError
from cluster.settled_file import Read, SettledFile
from cluster.tenancy.tenants import TenantDirectory, parse_tenants, read_tenants_file


@dataclass(frozen=True, slots=True)
class TenantsChange:
    """The changes of a new content, by tenant id."""

    added: tuple[TenantId, ...]
    removed: tuple[TenantId, ...]
    changed: tuple[TenantId, ...]  # keys, rights, limits or flags


class FollowedTenants:
    """The tenants file and the last directory that it made. Owned by one caller at a time.

    ``error`` is what is wrong with the file's present content, or None.
    """

    def __init__(self, path: Path, read: Read = read_tenants_file) -> None:
        """Read the file once.

        Raises:
            ConfigError: a first content that is wrong is refused; there is no last good one yet.
        """
        content = read(path)
        self._path = path
        self._file = SettledFile(path, read, content)
        self.directory = parse_tenants(content, source=str(path))
        self.error: str | None = None

    @property
    def unsettled(self) -> bool:
        """Report whether another look is worth while: the file has changed since the last one."""
        return self._file.unsettled

    def sync(self) -> TenantsChange | None:
        """Read the file again. Returns the changes, or None if ``directory`` is the same."""
        if not self._file.look():
            return None
        if self._file.content is None:
            self.error = self._file.problem  # perhaps another one than at the last look
            return None
        try:
            directory = parse_tenants(self._file.content, source=str(self._path))
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
