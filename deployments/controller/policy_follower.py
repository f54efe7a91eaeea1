"""Keeps the controller's policy that of the store, and carries a mounted file into the store."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import structlog

from cluster.errors import ConfigError, StoreUnavailable
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_load import parse_policy
from cluster.placement.policy.policy_store import VERSIONS_KEPT, PolicyStore, digest_of_text
from cluster.placement.policy.policy_versions import (
    FILE,
    PolicyDraft,
    PolicyState,
    PolicyVersion,
)
from cluster.settled_file import SettledFile

log = structlog.get_logger(__name__)

SYNC_INTERVAL_S = 0.5
"""Between two looks at the file. A change in the store is seen as soon as it is made, and after
this time if its announcement is lost."""
SETTLE_S = 0.5
"""Between the look that finds other content in the file and the one that may confirm it."""


class PolicyFollower:
    """Knows the policy in force; one owner, on one event loop.

    Until the store has said once which policy that is, the defaults are observed only: nothing in
    the cluster is changed. While Redis does not answer the last policy stays. A file that is broken
    leaves the store's version in force, and so does one that is being written. A store that has
    lost its data is given the policy in force again.

    Args:
        store: closed by ``close``.
        path: the mounted file that manages the policy, if any.
        defaults: entries that a policy does not have.
    """

    def __init__(self, store: PolicyStore, path: Path | None, defaults: ClusterPolicy) -> None:
        self._store = store
        self._path = path
        self._file = None if path is None else SettledFile(path)
        self._defaults = defaults
        self.policy = _observed(defaults)
        self.version = 0
        """Number of the version in force; 0: of none that the store has."""
        self.known = False
        """The store has said which policy is in force, and that one can be read."""
        self._kept: PolicyVersion | None = None
        self._refused = ("", 0)  # digest of the last text that was refused, and the base then
        self._refusal = ""  # of this text
        self._text: str | None = None  # of the file; None: it was refused, or not settled yet
        self._carried = ""  # digest of the file's text that the store has
        self._file_error: str | None = None
        self._store_error: str | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    @property
    def error(self) -> str | None:
        """Return why what an operator wrote is not in force, or None."""
        error = self._file_error or self._store_error
        if error is None or self.known:
            return error
        return f"{error}; until a policy can be read nothing is changed"

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever another policy is in force."""
        self._on_change = listener

    async def start(self) -> None:
        """Sync once, and stay in sync until ``close``."""
        await self._tried(self.sync())
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop following, and close the store."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._store.close()

    async def sync(self) -> None:
        """Take in what the file and the store say now."""
        await asyncio.to_thread(self._read_file)
        if self._file is not None and self._file.unsettled:
            await asyncio.sleep(SETTLE_S)
            await asyncio.to_thread(self._read_file)
        text = self._text
        try:
            if text is not None and digest_of_text(text) != self._carried:
                draft = PolicyDraft(text, FILE, f"read from {self._path}", FILE)
                await self._store.commit(draft, file=str(self._path), above=self.version)
                self._carried = digest_of_text(text)
            state = await self._store.read(self.version)
            if self._path is None and state.file:
                await self._store.release()
            if state.number == 0:
                self._carried = ""
                if self._kept is not None:
                    state = await self._restored(self._kept)
            self._note(await self._take(state))
        except StoreUnavailable as error:
            self._note(error.message)

    def _read_file(self) -> None:
        """Take in the file's text if it is a policy; otherwise note why it is not."""
        if self._file is None or not self._file.look():
            return
        content = self._file.content
        try:
            if content is None:
                raise ConfigError(self._file.problem)
            parse_policy(content, source=str(self._path), defaults=self._defaults)
            text, error = content.decode("utf-8-sig"), None
        except ConfigError as refusal:
            text, error = None, refusal.message
            if error != self._file_error:
                log.warning("controller.policy_file_refused", error=error)
        self._text, self._file_error = text, error

    async def _restored(self, kept: PolicyVersion) -> PolicyState:
        """Give the store, which has lost everything, the policy in force."""
        log.warning("controller.policy_restored", version=kept.number)
        draft = PolicyDraft(kept.text, kept.author, kept.message, kept.source)
        file = "" if self._path is None else str(self._path)
        await self._store.commit(draft, file=file, expected=0, above=self.version)
        return await self._store.read(self.version)

    async def _take(self, state: PolicyState) -> str | None:
        """Put the store's version in force; returns why that cannot be."""
        if self.known and state.number in (0, self.version):
            return None
        if state.number == 0:
            if self._path is None:
                self._rule(self._defaults, None)
            return None
        kept = state.version
        if kept is None:
            return f"version {state.number} has no text in Redis; apply a policy again"
        if (kept.sha256, state.base) != self._refused:
            try:
                self._rule(self._parsed(kept), kept)
                return None
            except ConfigError as error:
                if not self.known:
                    await self._take_earlier(kept, state.base)
                self._refused, self._refusal = (kept.sha256, state.base), error.message
        if not self.known:
            return f"{self._refusal}; no earlier version can be read either"
        return f"{self._refusal}; version {self.version} stays in force"

    async def _take_earlier(self, refused: PolicyVersion, base: int) -> None:
        """Put the last version in force that this release can read, if there is one.

        Overrides of a file are passed over: they were for a time.

        Args:
            base: number of the version in force without the present override.
        """
        versions = await self._store.history(VERSIONS_KEPT)
        source = next((kept.source for kept in versions if kept.number == base), refused.source)
        earlier = [kept for kept in versions if kept.number <= base and kept.source == source]
        found = await asyncio.to_thread(self._first_readable, earlier)
        if found is not None:
            self._rule(*found)

    def _first_readable(
        self, versions: Iterable[PolicyVersion]
    ) -> tuple[ClusterPolicy, PolicyVersion] | None:
        for kept in versions:
            with contextlib.suppress(ConfigError):
                return self._parsed(kept), kept
        return None

    def _parsed(self, kept: PolicyVersion) -> ClusterPolicy:
        source = f"policy version {kept.number}"
        return parse_policy(kept.text.encode(), source=source, defaults=self._defaults)

    def _rule(self, policy: ClusterPolicy, kept: PolicyVersion | None) -> None:
        """Put a policy in force; without a version it is that of a store that has none."""
        self.policy, self._kept, self.known = policy, kept, True
        self.version = 0 if kept is None else kept.number
        if kept is not None:
            log.info("controller.policy", version=kept.number, author=kept.author, why=kept.message)
        self._on_change()

    def _note(self, error: str | None) -> None:
        if error is not None and error != self._store_error:
            log.warning("controller.policy_not_followed", error=error)
        self._store_error = error

    async def _run(self) -> None:
        while True:
            if not await self._tried(self._store.wait(SYNC_INTERVAL_S)):
                await asyncio.sleep(SYNC_INTERVAL_S)
            await self._tried(self.sync())

    async def _tried(self, step: Awaitable[None]) -> bool:
        """Report whether a step could be taken: one that fails must not end the loop."""
        try:
            await step
        except Exception as error:
            if repr(error) != self._store_error:  # one line for a failure that lasts
                log.error("controller.policy_not_followed", exc_info=error)
            self._store_error = repr(error)
            return False
        return True


def _observed(policy: ClusterPolicy) -> ClusterPolicy:
    """Return a policy that changes neither the count nor what replicas have."""
    observe = {"mode": "observe"}
    return policy.model_copy(
        update={
            "replicas": policy.replicas.model_copy(update=observe),
            "placement": policy.placement.model_copy(update=observe),
        }
    )
