"""Changes of the registry as pure functions: a view in, a conditional transaction out.

Every function reads all that it depends on from the view and makes it a condition, so that a
transaction applies to the very state that was judged, or not at all.
"""

import re
from dataclasses import dataclass, field, replace

from cluster.adapters.catalog import ALIAS_PATTERN, RESERVED_ALIASES
from cluster.adapters.registry.records import (
    FOLDER,
    NAME,
    VERSION,
    AdapterVersion,
    Name,
    PlaceKind,
    ReplicaAnswer,
    Step,
    VersionState,
    encode,
    name_id,
)
from cluster.adapters.registry.registry_view import RegistryView
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import (
    AdapterConflict,
    AdapterError,
    AdapterInUse,
    AdapterNotFound,
)

HISTORY_STEPS = 20
"""Steps a name remembers; a version that only older ones had is let go."""
ABSENT = AdapterDigest("")
"""As the expected version: the name must not exist."""
BY_CONFIG = "config"


@dataclass(slots=True)
class Transaction:
    """What must hold, and what is written then; one record is given once, in its last form."""

    view: RegistryView
    expect: dict[str, bytes | None] = field(default_factory=dict)
    write: dict[str, bytes | None] = field(default_factory=dict)
    _versions: dict[AdapterDigest, AdapterVersion] = field(default_factory=dict)

    def require(self, name: str) -> None:
        """The field must be as the view has it."""
        self.expect[name] = self.view.raw.get(name)

    def put(self, name: str, raw: bytes | None) -> None:
        """Write a field that must be as the view has it."""
        self.require(name)
        self.write[name] = raw

    def version(self, digest: AdapterDigest) -> AdapterVersion | None:
        """As this transaction leaves it so far."""
        return self._versions.get(digest) or self.view.versions.get(digest)

    def put_version(self, version: AdapterVersion) -> None:
        """Write a version."""
        self._versions[version.digest] = version
        self.put(VERSION + version.digest, encode(version))

    def put_name(self, name: Name, now: float) -> None:
        """Write a name, and tell the versions that it has now, and those it has no more."""
        self._refer(self.view.names.get(name.id), name, now)
        self.put(NAME + name.id, encode(name))

    def remove_name(self, name: Name, now: float) -> None:
        """Remove a name with its history."""
        self._refer(name, None, now)
        self.put(NAME + name.id, None)

    def _refer(self, before: Name | None, after: Name | None, now: float) -> None:
        had = {step.digest for step in before.history} if before else set()
        has = {step.digest for step in after.history} if after else set()
        id = (before or after).id  # type: ignore[union-attr] # one of them is there
        for digest in sorted(had | has):
            version = self.version(digest)
            if version is None:
                raise AdapterNotFound(f"there is no version {digest}", param="version")
            self.require(VERSION + digest)
            if (digest in has) == (id in version.names):
                continue
            names = {*version.names, id} if digest in has else {*version.names} - {id}
            state = VersionState.SERVED if names else VersionState.RETIRED
            self.put_version(
                replace(
                    version,
                    names=tuple(sorted(names)),
                    state=state,
                    changed_at=version.changed_at if state is version.state else now,
                )
            )


def check_alias(view: RegistryView, owner: TenantId, alias: str, forbidden: frozenset[str]) -> None:
    """Refuse what cannot be an adapter's name; ``forbidden`` are in lower case.

    Raises:
        AdapterError: malformed, reserved, or differing from another of the owner's by case only.
    """
    if not re.fullmatch(ALIAS_PATTERN, alias):
        raise AdapterError(f"a name must match {ALIAS_PATTERN}, found {alias!r}", param="name")
    if alias.lower() in forbidden | RESERVED_ALIASES:
        raise AdapterError(f"the name {alias!r} is reserved", param="name")
    if re.fullmatch("[0-9a-f]{64}", alias):
        raise AdapterError("a name must not look like a version's digest", param="name")
    for other in view.names.values():
        if other.owner == owner and other.alias != alias and other.alias.lower() == alias.lower():
            raise AdapterError(
                f"the name {alias!r} differs from {other.alias!r} by case only", param="name"
            )


def check_expected(
    view: RegistryView, owner: TenantId, alias: str, expected: AdapterDigest | None
) -> None:
    """Compare before set. ``expected``: a digest, ``ABSENT``, or None for whatever it is.

    Raises:
        AdapterConflict: the name points elsewhere; the message says where.
    """
    if expected is None:
        return
    name = view.names.get(name_id(owner, alias))
    found = ABSENT if name is None else name.digest
    if found == expected:
        return
    if expected == ABSENT:
        raise AdapterConflict(
            f"the adapter {alias!r} exists already, with version {found}; to replace it, send "
            "that as the expected version",
            param="expected",
        )
    raise AdapterConflict(
        f"the adapter {alias!r} points to {found or 'nothing'}, not to the expected {expected}",
        param="expected",
    )


def stage(view: RegistryView, version: AdapterVersion, wanted_by: str, now: float) -> Transaction:
    """Register a version whose files are in place, for no name yet.

    One that is served already stays as it is; one that is leaving comes back.

    Raises:
        AdapterConflict: its files are being removed at this moment.
    """
    transaction = Transaction(view)
    known = view.versions.get(version.digest)
    if known is None:
        known = version
    elif known.state is VersionState.DELETING:
        raise AdapterConflict(f"version {known.digest} is being removed; try again in a moment")
    else:
        newer = _said_again(known, version)
        if newer == known and known.state is not VersionState.RETIRED:
            transaction.require(VERSION + known.digest)
            return transaction
        known = newer
    if known.state is VersionState.SERVED:
        transaction.put_version(known)
        return transaction
    staged = VersionState.STAGED
    transaction.put_version(
        replace(known, state=staged, changed_at=now, wanted_by=wanted_by, answers=())
    )
    return transaction


def _said_again(known: AdapterVersion, again: AdapterVersion) -> AdapterVersion:
    """A version with what its latest addition says of its files, and of where they are."""
    known = replace(known, notes=again.notes, base_check=again.base_check or known.base_check)
    if known.place.kind is PlaceKind.FOLDER and again.place.kind is PlaceKind.STORE:
        known = replace(known, place=again.place)  # a folder may go, the store keeps it
    return known


def answered(
    view: RegistryView, digest: AdapterDigest, answers: tuple[ReplicaAnswer, ...]
) -> Transaction:
    """Note what replicas said of a staged version."""
    transaction = Transaction(view)
    transaction.put_version(replace(view.version(digest), answers=answers))
    return transaction


def abandon(view: RegistryView, digest: AdapterDigest, now: float) -> Transaction:
    """Let a staged version go that will not be served; nothing where a name has it by now."""
    transaction = Transaction(view)
    known = view.versions.get(digest)
    if known is not None and known.state is VersionState.STAGED:
        retired = VersionState.RETIRED
        transaction.put_version(replace(known, state=retired, changed_at=now))
    return transaction


def point(
    view: RegistryView,
    owner: TenantId,
    alias: str,
    digest: AdapterDigest,
    *,
    expected: AdapterDigest | None,
    by: str,
    now: float,
    rollback: bool = False,
    grants: tuple[str, ...] | None = None,
) -> Transaction:
    """Let a name point to a version; a new name is made.

    Pointing to where it points already changes nothing but ``grants``.

    Raises:
        AdapterConflict: the name does not point where expected, or the version is leaving.
        AdapterNotFound: there is no such version.
    """
    check_expected(view, owner, alias, expected)
    version = view.version(digest)
    if version.state is VersionState.DELETING:
        raise AdapterConflict(f"version {digest} is being removed; add it again")
    before = view.names.get(name_id(owner, alias))
    name = before or Name(owner, alias, ())
    if before is None or before.digest != digest:
        steps = (*name.history, Step(digest, now, by, rollback))
        name = replace(name, history=steps[-HISTORY_STEPS:])
    if grants is not None:
        name = replace(name, grants=tuple(sorted(set(grants))))
    transaction = Transaction(view)
    if name == before:
        transaction.require(NAME + name.id)
    else:
        transaction.put_name(name, now)
    return transaction


def roll_back(
    view: RegistryView,
    owner: TenantId,
    alias: str,
    *,
    expected: AdapterDigest | None,
    by: str,
    now: float,
) -> Transaction:
    """Point a name to the version that it had before the present one was put in.

    Again and again it goes further back; rolling back is itself a step of the history.

    Raises:
        AdapterConflict: the name does not point where expected, or there is nothing before.
        AdapterNotFound: there is no such name.
    """
    name = view.name(owner, alias)
    target = previous_of(name)
    check_expected(view, owner, alias, expected)
    if target is None:
        raise AdapterConflict(f"the adapter {alias!r} has no earlier version", param="name")
    return point(view, owner, alias, target, expected=name.digest, by=by, now=now, rollback=True)


def previous_of(name: Name) -> AdapterDigest | None:
    """What ``roll_back`` would point to.

    Steps put versions on a stack and rolling back takes them off, so that what was rolled back
    from is not come back to.
    """
    stack: list[AdapterDigest] = []
    for step in name.history:
        if step.rollback:
            while stack and stack[-1] != step.digest:
                stack.pop()
        if not stack or stack[-1] != step.digest:
            stack.append(step.digest)
    return stack[-2] if len(stack) > 1 else None


def pin(view: RegistryView, owner: TenantId, alias: str, pinned: bool, now: float) -> Transaction:
    """Keep a name's version on every replica, or no longer.

    Raises:
        AdapterNotFound: there is no such name.
    """
    transaction = Transaction(view)
    name = view.name(owner, alias)
    if name.pinned != pinned:
        transaction.put_name(replace(name, pinned=pinned), now)
    return transaction


def remove_name(
    view: RegistryView,
    owner: TenantId,
    alias: str,
    *,
    expected: AdapterDigest | None,
    force: bool,
    now: float,
) -> Transaction:
    """Remove a name; versions that no other name has are retired.

    Raises:
        AdapterConflict: the name does not point where expected.
        AdapterInUse: it is pinned, and not forced.
        AdapterNotFound: there is no such name.
    """
    name = view.name(owner, alias)
    check_expected(view, owner, alias, expected)
    if name.pinned and not force:
        raise AdapterInUse(f"the adapter {alias!r} is pinned; unpin it first, or force it")
    transaction = Transaction(view)
    transaction.remove_name(name, now)
    return transaction


def remove_version(
    view: RegistryView, digest: AdapterDigest, *, force: bool, now: float
) -> Transaction:
    """Remove a version from all histories; forced, also the names that point to it.

    Raises:
        AdapterInUse: names point to it, and it is not forced.
        AdapterNotFound: there is no such version.
    """
    version = view.version(digest)
    pointing = view.names_at(digest)
    if pointing and not force:
        names = ", ".join(name.id for name in pointing)
        raise AdapterInUse(f"version {digest} is what {names} point to; remove them, or force it")
    transaction = Transaction(view)
    for id in version.names:
        name = view.names[id]
        if name.digest == digest:
            transaction.remove_name(name, now)
            continue
        kept = tuple(step for step in name.history if step.digest != digest)
        transaction.put_name(replace(name, history=kept), now)
    if not version.names and version.state is VersionState.STAGED:
        return abandon(view, digest, now)
    return transaction


def begin_delete(view: RegistryView, digest: AdapterDigest, now: float) -> Transaction:
    """From here on a retired version cannot come back; its files may be removed.

    Raises:
        AdapterInUse: it is not retired (any more).
    """
    version = view.version(digest)
    if version.state not in (VersionState.RETIRED, VersionState.DELETING):
        raise AdapterInUse(f"version {digest} is {version.state}")
    transaction = Transaction(view)
    deleting = VersionState.DELETING
    if version.state is not deleting:
        transaction.put_version(replace(version, state=deleting, changed_at=now))
    return transaction


def finish_delete(view: RegistryView, digest: AdapterDigest) -> Transaction:
    """Forget a version whose files are gone.

    Raises:
        AdapterInUse: its deletion has not begun.
    """
    transaction = Transaction(view)
    version = view.versions.get(digest)
    if version is None:
        return transaction
    if version.state is not VersionState.DELETING:
        raise AdapterInUse(f"version {digest} is {version.state}")
    transaction.put(VERSION + digest, None)
    return transaction


def sync_folder(
    view: RegistryView, alias: str, version: AdapterVersion | None, now: float
) -> Transaction:
    """Bring one adapter of the configured folder in; ``version`` None: it is there no more.

    The folder speaks when its bytes change. What an operator did to the name since then stands:
    a name that was switched stays switched, one that was removed stays away.

    Raises:
        AdapterConflict: that version's files are being removed at this moment.
    """
    last = view.folder.get(alias)
    found = None if version is None else version.digest
    transaction = Transaction(view)
    transaction.require(FOLDER + alias)
    if last == found:
        return transaction
    name = view.names.get(name_id(SHARED_OWNER, alias))
    transaction.require(NAME + name_id(SHARED_OWNER, alias))
    untouched = (name.digest if name is not None else None) == last
    if version is None:
        if name is not None and untouched:
            transaction.remove_name(name, now)
        transaction.put(FOLDER + alias, None)
        return transaction
    if untouched:
        known = view.versions.get(version.digest)
        if known is not None and known.state is VersionState.DELETING:
            raise AdapterConflict(f"version {known.digest} is being removed")
        transaction.put_version(known or version)
        step = Step(version.digest, now, BY_CONFIG)
        steps = (*(name.history if name is not None else ()), step)[-HISTORY_STEPS:]
        made = replace(name or Name(SHARED_OWNER, alias, ()), history=steps)
        transaction.put_name(made, now)
    transaction.put(FOLDER + alias, version.digest.encode())
    return transaction
