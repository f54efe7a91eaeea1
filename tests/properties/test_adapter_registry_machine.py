"""The registry against a naive model: several processes, each with a view as old as it likes."""

import asyncio
import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.operations import ABSENT, HISTORY_STEPS
from cluster.adapters.registry.records import AdapterVersion, PlaceKind, VersionState
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import TenantId
from cluster.errors import AdapterConflict, AdapterInUse, AdapterNotFound, BraidError
from tests.support.manual_clock import ManualClock
from tests.support.registry import digest, version

LETTERS = "abcd"
processes = st.integers(0, 2)
letters = st.sampled_from(LETTERS)
owners = st.sampled_from([SHARED_OWNER, TenantId("acme")])
aliases = st.sampled_from(["sql", "json"])
expectations = st.sampled_from(["", *LETTERS, "anything"])


class Model:
    """One dictionary; everything else follows from it."""

    def __init__(self) -> None:
        self.histories: dict[tuple[str, str], list[tuple[str, bool]]] = {}
        self.pinned: set[tuple[str, str]] = set()
        self.staged: set[str] = set()
        self.leaving: set[str] = set()  # retired
        self.collecting: set[str] = set()
        self.folder: dict[str, str] = {}

    def current(self, name: tuple[str, str]) -> str:
        return self.histories[name][-1][0] if name in self.histories else ""

    @property
    def served(self) -> set[str]:
        return {letter for steps in self.histories.values() for letter, _ in steps}

    @property
    def known(self) -> set[str]:
        return self.served | self.staged | self.leaving | self.collecting

    def settle(self, before: set[str]) -> None:
        """Retire what was served before and is not now."""
        self.leaving |= before - self.served
        self.leaving -= self.served
        self.staged -= self.served

    def push(self, name: tuple[str, str], letter: str, rollback: bool) -> None:
        before = self.served
        if self.current(name) != letter:
            steps = [*self.histories.get(name, []), (letter, rollback)]
            self.histories[name] = steps[-HISTORY_STEPS:]
        self.settle(before)

    def earlier(self, name: tuple[str, str]) -> str | None:
        """Return what was current just before the present one was put there, by playing it back."""
        undo: dict[int, int] = {}  # place in the history -> place of what it replaced
        steps = self.histories[name]
        at = -1
        for place, (letter, rollback) in enumerate(steps):
            if rollback:
                while at >= 0 and steps[at][0] != letter:
                    at = undo[at]
            if at < 0 or steps[at][0] != letter:
                undo[place] = at
                at = place
        before = undo[at]
        return steps[before][0] if before >= 0 else None


class RegistryMachine(RuleBasedStateMachine):
    @initialize(kept=st.integers(0, 4))
    def begin(self, kept: int) -> None:
        epochs = itertools.count()
        self.clock = ManualClock()
        self.store = MemoryRegistryStore(lambda: f"epoch-{next(epochs)}", kept)
        self.registries = [AdapterRegistry(self.store, self.clock) for _ in range(3)]
        self.model = Model()

    def do(self, coroutine) -> type[BraidError] | None:
        """Run one operation; the class of its refusal."""
        self.clock.advance(1)
        try:
            asyncio.run(coroutine)
        except BraidError as error:
            return type(error)
        return None

    @rule(process=processes, letter=letters)
    def stage(self, process: int, letter: str) -> None:
        refused = self.do(self.registries[process].stage(version(letter), "shared/sql"))
        if letter in self.model.collecting:
            assert refused is AdapterConflict
            return
        assert refused is None
        if letter not in self.model.served:
            self.model.staged.add(letter)
            self.model.leaving.discard(letter)

    @rule(process=processes, letter=letters)
    def retire_staged(self, process: int, letter: str) -> None:
        assert self.do(self.registries[process].retire_staged(digest(letter))) is None
        if letter in self.model.staged:
            self.model.staged.discard(letter)
            self.model.leaving.add(letter)

    @rule(process=processes, owner=owners, alias=aliases, letter=letters, expected=expectations)
    def switch(self, process: int, owner: TenantId, alias: str, letter: str, expected: str) -> None:
        name = (owner, alias)
        wanted = None if expected == "anything" else digest(expected) if expected else ABSENT
        refused = self.do(
            self.registries[process].switch(
                owner, alias, digest(letter), expected=wanted, by="admin"
            )
        )
        if expected not in ("anything", self.model.current(name)):
            assert refused is AdapterConflict
        elif letter not in self.model.known:
            assert refused is AdapterNotFound
        elif letter in self.model.collecting:
            assert refused is AdapterConflict
        else:
            assert refused is None
            self.model.push(name, letter, False)

    @rule(process=processes, owner=owners, alias=aliases)
    def roll_back(self, process: int, owner: TenantId, alias: str) -> None:
        name = (owner, alias)
        refused = self.do(
            self.registries[process].roll_back(owner, alias, expected=None, by="admin")
        )
        if name not in self.model.histories:
            assert refused is AdapterNotFound
            return
        target = self.model.earlier(name)
        if target is None:
            assert refused is AdapterConflict
        else:
            assert refused is None
            self.model.push(name, target, True)

    @rule(process=processes, owner=owners, alias=aliases, pinned=st.booleans())
    def pin(self, process: int, owner: TenantId, alias: str, pinned: bool) -> None:
        refused = self.do(self.registries[process].pin_name(owner, alias, pinned))
        if (owner, alias) not in self.model.histories:
            assert refused is AdapterNotFound
        elif pinned:
            self.model.pinned.add((owner, alias))
        else:
            self.model.pinned.discard((owner, alias))

    @rule(process=processes, owner=owners, alias=aliases, force=st.booleans())
    def remove_name(self, process: int, owner: TenantId, alias: str, force: bool) -> None:
        name = (owner, alias)
        refused = self.do(
            self.registries[process].remove_name(owner, alias, expected=None, force=force)
        )
        if name not in self.model.histories:
            assert refused is AdapterNotFound
        elif name in self.model.pinned and not force:
            assert refused is AdapterInUse
        else:
            assert refused is None
            self.forget([name])

    @rule(process=processes, letter=letters, force=st.booleans())
    def retire_version(self, process: int, letter: str, force: bool) -> None:
        model = self.model
        refused = self.do(self.registries[process].retire_version(digest(letter), force=force))
        pointing = [name for name in model.histories if model.current(name) == letter]
        if letter not in model.known:
            assert refused is AdapterNotFound
        elif pointing and not force:
            assert refused is AdapterInUse
        else:
            assert refused is None
            before = model.served
            for name, steps in model.histories.items():
                model.histories[name] = [s for s in steps if s[0] != letter or name in pointing]
            model.settle(before)
            self.forget(pointing)
            if letter in model.staged:
                model.staged.discard(letter)
                model.leaving.add(letter)

    @rule(process=processes, letter=letters)
    def begin_collect(self, process: int, letter: str) -> None:
        refused = self.do(self.registries[process].begin_collect(digest(letter)))
        if letter not in self.model.known:
            assert refused is AdapterNotFound
        elif letter in self.model.leaving | self.model.collecting:
            assert refused is None
            self.model.leaving.discard(letter)
            self.model.collecting.add(letter)
        else:
            assert refused is AdapterInUse

    @rule(process=processes, letter=letters)
    def finish_collect(self, process: int, letter: str) -> None:
        refused = self.do(self.registries[process].finish_collect(digest(letter)))
        if letter in self.model.known - self.model.collecting:
            assert refused is AdapterInUse
        else:
            assert refused is None
            self.model.collecting.discard(letter)

    @rule(process=processes, folder=st.dictionaries(aliases, letters))
    def sync_folder(self, process: int, folder: dict[str, str]) -> None:
        model = self.model
        versions: dict[str, AdapterVersion] = {
            alias: version(letter, PlaceKind.FOLDER, alias) for alias, letter in folder.items()
        }
        refused = self.do(self.registries[process].sync_folder(versions))
        for alias in sorted(folder.keys() | model.folder.keys()):
            name, now, last = (SHARED_OWNER, alias), folder.get(alias, ""), model.folder.get(alias)
            if now == (last or ""):
                continue
            if self.model.current(name) == (last or ""):
                if now in model.collecting:
                    assert refused is AdapterConflict
                    return
                if now:
                    model.push(name, now, False)
                elif name in model.histories:
                    self.forget([name])
            if now:
                model.folder[alias] = now
            else:
                del model.folder[alias]
        assert refused is None

    @rule(process=processes)
    def sync(self, process: int) -> None:
        assert self.do(self.registries[process].sync()) is None

    def forget(self, names: list[tuple[str, str]]) -> None:
        before = self.model.served
        for name in names:
            del self.model.histories[name]
            self.model.pinned.discard(name)
        self.model.settle(before)

    @invariant()
    def is_what_the_model_says(self) -> None:
        fresh = AdapterRegistry(self.store, self.clock)
        view = asyncio.run(fresh.sync())
        view.check_integrity()
        found = {
            (name.owner, name.alias): [(step.digest[0], step.rollback) for step in name.history]
            for name in view.names.values()
        }
        assert found == self.model.histories
        assert {(n.owner, n.alias) for n in view.names.values() if n.pinned} == self.model.pinned
        assert {alias: d[0] for alias, d in view.folder.items()} == self.model.folder
        for state, expected in (
            (VersionState.SERVED, self.model.served),
            (VersionState.STAGED, self.model.staged),
            (VersionState.RETIRED, self.model.leaving),
            (VersionState.COLLECTING, self.model.collecting),
        ):
            assert {g.digest[0] for g in view.in_state(state)} == expected, state

    @invariant()
    def everybody_arrives_at_the_same_view(self) -> None:
        """Assert that all views are equal, by differences or in full, from however far behind."""
        everything = AdapterRegistry(self.store, self.clock)
        whole = asyncio.run(everything.sync())
        follower = AdapterRegistry(self.store, self.clock)
        follower._view = self.registries[0].view
        assert asyncio.run(follower.sync()) == whole


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
