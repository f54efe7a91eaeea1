"""Changes of the registry as pure functions: a view in, a conditional transaction out.

Every function reads all that it depends on from the view and makes it a condition, so that a
transaction applies to the very state that was judged, or not at all.
"""

import re
from dataclasses import dataclass, field, replace

from cluster.adapters.catalog import ALIAS_PATTERN, RESERVED_ALIASES
from cluster.adapters.registry.records import (
    FOLDER,
    GENERATION,
    NAME,
    Answer,
    Generation,
    GenerationState,
    Name,
    PlaceKind,
    Step,
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
"""Steps a name remembers; a generation that only older ones had is let go."""
ABSENT = AdapterDigest("")
"""As the expected generation: the name must not exist."""
BY_CONFIG = "config"


@dataclass(slots=True)
class Transaction:
    """What must hold, and what is written then; one record is given once, in its last form."""

    view: RegistryView
    expect: dict[str, bytes | None] = field(default_factory=dict)
    write: dict[str, bytes | None] = field(default_factory=dict)
    _generations: dict[AdapterDigest, Generation] = field(default_factory=dict)

    def require(self, name: str) -> None:
        """The field must be as the view has it."""
        self.expect[name] = self.view.raw.get(name)

    def put(self, name: str, raw: bytes | None) -> None:
        """Write a field that must be as the view has it."""
        self.require(name)
        self.write[name] = raw

    def generation(self, digest: AdapterDigest) -> Generation | None:
        """As this transaction leaves it so far."""
        return self._generations.get(digest) or self.view.generations.get(digest)

    def put_generation(self, generation: Generation) -> None:
        """Write a generation."""
        self._generations[generation.digest] = generation
        self.put(GENERATION + generation.digest, encode(generation))

    def put_name(self, name: Name, now: float) -> None:
        """Write a name, and tell the generations that it has now, and those it has no more."""
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
            generation = self.generation(digest)
            if generation is None:
                raise AdapterNotFound(f"there is no generation {digest}", param="generation")
            self.require(GENERATION + digest)
            if (digest in has) == (id in generation.names):
                continue
            names = {*generation.names, id} if digest in has else {*generation.names} - {id}
            state = GenerationState.SERVED if names else GenerationState.RETIRED
            self.put_generation(
                replace(
                    generation,
                    names=tuple(sorted(names)),
                    state=state,
                    changed_at=generation.changed_at if state is generation.state else now,
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
        raise AdapterError("a name must not look like a generation's digest", param="name")
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
            f"the adapter {alias!r} exists already, with generation {found}; to replace it, send "
            "that as the expected generation",
            param="expected",
        )
    raise AdapterConflict(
        f"the adapter {alias!r} points to {found or 'nothing'}, not to the expected {expected}",
        param="expected",
    )


def stage(view: RegistryView, generation: Generation, wanted_by: str, now: float) -> Transaction:
    """Register a generation whose files are in place, for no name yet.

    One that is served already stays as it is; one that is leaving comes back.

    Raises:
        AdapterConflict: its files are being removed at this moment.
    """
    transaction = Transaction(view)
    known = view.generations.get(generation.digest)
    if known is None:
        known = generation
    elif known.state is GenerationState.DELETING:
        raise AdapterConflict(f"generation {known.digest} is being removed; try again in a moment")
    else:
        newer = _said_again(known, generation)
        if newer == known and known.state is not GenerationState.RETIRED:
            transaction.require(GENERATION + known.digest)
            return transaction
        known = newer
    if known.state is GenerationState.SERVED:
        transaction.put_generation(known)
        return transaction
    staged = GenerationState.STAGED
    transaction.put_generation(
        replace(known, state=staged, changed_at=now, wanted_by=wanted_by, answers=())
    )
    return transaction


def _said_again(known: Generation, again: Generation) -> Generation:
    """A generation with what its latest addition says of its files, and of where they are."""
    known = replace(known, notes=again.notes, base_check=again.base_check or known.base_check)
    if known.place.kind is PlaceKind.FOLDER and again.place.kind is PlaceKind.STORE:
        known = replace(known, place=again.place)  # a folder may go, the store keeps it
    return known


def answered(view: RegistryView, digest: AdapterDigest, answers: tuple[Answer, ...]) -> Transaction:
    """Note what replicas said of a staged generation."""
    transaction = Transaction(view)
    transaction.put_generation(replace(view.generation(digest), answers=answers))
    return transaction


def abandon(view: RegistryView, digest: AdapterDigest, now: float) -> Transaction:
    """Let a staged generation go that will not be served; nothing where a name has it by now."""
    transaction = Transaction(view)
    known = view.generations.get(digest)
    if known is not None and known.state is GenerationState.STAGED:
        retired = GenerationState.RETIRED
        transaction.put_generation(replace(known, state=retired, changed_at=now))
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
    """Let a name point to a generation; a new name is made.

    Pointing to where it points already changes nothing but ``grants``.

    Raises:
        AdapterConflict: the name does not point where expected, or the generation is leaving.
        AdapterNotFound: there is no such generation.
    """
    check_expected(view, owner, alias, expected)
    generation = view.generation(digest)
    if generation.state is GenerationState.DELETING:
        raise AdapterConflict(f"generation {digest} is being removed; add it again")
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
    """Point a name to the generation that it had before the present one was put in.

    Again and again it goes further back; rolling back is itself a step of the history.

    Raises:
        AdapterConflict: the name does not point where expected, or there is nothing before.
        AdapterNotFound: there is no such name.
    """
    name = view.name(owner, alias)
    target = previous_of(name)
    check_expected(view, owner, alias, expected)
    if target is None:
        raise AdapterConflict(f"the adapter {alias!r} has no earlier generation", param="name")
    return point(view, owner, alias, target, expected=name.digest, by=by, now=now, rollback=True)


def previous_of(name: Name) -> AdapterDigest | None:
    """What ``roll_back`` would point to.

    Steps put generations on a stack and rolling back takes them off, so that what was rolled back
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
    """Keep a name's generation on every replica, or no longer.

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
    """Remove a name; generations that no other name has are retired.

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


def remove_generation(
    view: RegistryView, digest: AdapterDigest, *, force: bool, now: float
) -> Transaction:
    """Remove a generation from all histories; forced, also the names that point to it.

    Raises:
        AdapterInUse: names point to it, and it is not forced.
        AdapterNotFound: there is no such generation.
    """
    generation = view.generation(digest)
    pointing = view.names_at(digest)
    if pointing and not force:
        names = ", ".join(name.id for name in pointing)
        raise AdapterInUse(
            f"generation {digest} is what {names} point to; remove them, or force it"
        )
    transaction = Transaction(view)
    for id in generation.names:
        name = view.names[id]
        if name.digest == digest:
            transaction.remove_name(name, now)
            continue
        kept = tuple(step for step in name.history if step.digest != digest)
        transaction.put_name(replace(name, history=kept), now)
    if not generation.names and generation.state is GenerationState.STAGED:
        return abandon(view, digest, now)
    return transaction


def begin_delete(view: RegistryView, digest: AdapterDigest, now: float) -> Transaction:
    """From here on a retired generation cannot come back; its files may be removed.

    Raises:
        AdapterInUse: it is not retired (any more).
    """
    generation = view.generation(digest)
    if generation.state not in (GenerationState.RETIRED, GenerationState.DELETING):
        raise AdapterInUse(f"generation {digest} is {generation.state}")
    transaction = Transaction(view)
    deleting = GenerationState.DELETING
    if generation.state is not deleting:
        transaction.put_generation(replace(generation, state=deleting, changed_at=now))
    return transaction


def finish_delete(view: RegistryView, digest: AdapterDigest) -> Transaction:
    """Forget a generation whose files are gone.

    Raises:
        AdapterInUse: its deletion has not begun.
    """
    transaction = Transaction(view)
    generation = view.generations.get(digest)
    if generation is None:
        return transaction
    if generation.state is not GenerationState.DELETING:
        raise AdapterInUse(f"generation {digest} is {generation.state}")
    transaction.put(GENERATION + digest, None)
    return transaction


def sync_folder(
    view: RegistryView, alias: str, generation: Generation | None, now: float
) -> Transaction:
    """Bring one adapter of the configured folder in; ``generation`` None: it is there no more.

    The folder speaks when its bytes change. What an operator did to the name since then stands:
    a name that was switched stays switched, one that was removed stays away.

    Raises:
        AdapterConflict: that generation's files are being removed at this moment.
    """
    last = view.folder.get(alias)
    found = None if generation is None else generation.digest
    transaction = Transaction(view)
    transaction.require(FOLDER + alias)
    if last == found:
        return transaction
    name = view.names.get(name_id(SHARED_OWNER, alias))
    transaction.require(NAME + name_id(SHARED_OWNER, alias))
    untouched = (name.digest if name is not None else None) == last
    if generation is None:
        if name is not None and untouched:
            transaction.remove_name(name, now)
        transaction.put(FOLDER + alias, None)
        return transaction
    if untouched:
        known = view.generations.get(generation.digest)
        if known is not None and known.state is GenerationState.DELETING:
            raise AdapterConflict(f"generation {known.digest} is being removed")
        transaction.put_generation(known or generation)
        step = Step(generation.digest, now, BY_CONFIG)
        steps = (*(name.history if name is not None else ()), step)[-HISTORY_STEPS:]
        made = replace(name or Name(SHARED_OWNER, alias, ()), history=steps)
        transaction.put_name(made, now)
    transaction.put(FOLDER + alias, generation.digest.encode())
    return transaction
