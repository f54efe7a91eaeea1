"""Keeps the controller's policy that of the store, and carries a mounted file into the store."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from cluster.errors import ConfigError, StoreUnavailable
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_load import load_policy, parse_policy
from cluster.placement.policy.policy_store import PolicyStore, digest_of_text
from cluster.placement.policy.policy_versions import (
    FILE,
    CommitOutcome,
    PolicyDraft,
    PolicyState,
    PolicyVersion,
)
from cluster.regular_file import read_regular

log = structlog.get_logger(__name__)

SYNC_INTERVAL_S = 0.5
"""Between two looks at the file. A change in the store is seen as soon as it is made, and after
this time if its announcement is lost."""


class PolicyFollower:
    """Knows the policy in force; one owner, on one event loop.

    While Redis does not answer the last policy stays. A file that is broken leaves its last good
    version in force. A store that has lost its data is given the policy in force again.

    Args:
        store: closed by ``close``.
        path: the mounted file that manages the policy, if any.
        defaults: entries that a policy does not have.
    """

    def __init__(self, store: PolicyStore, path: Path | None, defaults: ClusterPolicy) -> None:
        """Read the file, if any: it rules until the store has answered.

        Raises:
            ConfigError: the file is wrong; there is no last good policy yet.
        """
        self._store = store
        self._path = path
        self._defaults = defaults
        self.policy = load_policy(path, defaults)
        self.version = 0
        """Number of the version in force; 0: of none that the store has."""
        self._kept: PolicyVersion | None = None
        self._carried = ""  # digest of the file's text that the store has
        self._file_error: str | None = None
        self._store_error: str | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    @property
    def error(self) -> str | None:
        """Return why what an operator wrote is not in force, or None."""
        return self._file_error or self._store_error

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever another policy is in force."""
        self._on_change = listener

    async def start(self) -> None:
        """Sync once, and stay in sync until ``close``."""
        await self.sync()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop following, and close the store."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._store.close()

    async def sync(self) -> None:
        """Take in what the file and the store say now."""
        text = await asyncio.to_thread(self._read_file)
        try:
            if text is not None and digest_of_text(text) != self._carried:
                draft = PolicyDraft(text, FILE, f"read from {self._path}", FILE)
                await self._store.commit(draft, file=str(self._path), above=self.version)
                self._carried = digest_of_text(text)
            state = await self._store.read(self.version)
            if self._path is None and state.file:
                await self._store.release()
            if state.number == 0 and self._kept is not None:
                state = await self._restored(self._kept)
        except StoreUnavailable as error:
            self._note(error.message)
            return
        self._note(self._take(state))

    def _read_file(self) -> str | None:
        """Return the file's text if it is a policy; otherwise say why it is not."""
        if self._path is None:
            return None
        try:
            content = read_regular(self._path)
            parse_policy(content, source=str(self._path), defaults=self._defaults)
        except ConfigError as error:
            self._file_error = error.message
            return None
        self._file_error = None
        return content.decode("utf-8-sig")

    async def _restored(self, kept: PolicyVersion) -> PolicyState:
        """Give the store, which has lost everything, the policy in force."""
        log.warning("controller.policy_restored", version=kept.number)
        draft = PolicyDraft(kept.text, kept.author, kept.message, kept.source)
        file = "" if self._path is None else str(self._path)
        commit = await self._store.commit(draft, file=file, expected=0, above=self.version)
        if commit.outcome is CommitOutcome.KEPT:
            self._carried = ""  # the file may say something else
        return await self._store.read(self.version)

    def _take(self, state: PolicyState) -> str | None:
        """Put the store's version in force; returns why that cannot be."""
        if state.number in (0, self.version):
            return None
        kept = state.version
        if kept is None:
            return f"version {state.number} has no text in Redis; apply a policy again"
        source = f"policy version {kept.number}"
        try:
            policy = parse_policy(kept.text.encode(), source=source, defaults=self._defaults)
        except ConfigError as error:
            return f"{error.message}; version {self.version} stays in force"
        log.info("controller.policy", version=kept.number, author=kept.author, why=kept.message)
        self.policy, self.version, self._kept = policy, kept.number, kept
        self._on_change()
        return None

    def _note(self, error: str | None) -> None:
        if error is not None and error != self._store_error:
            log.warning("controller.policy_not_followed", error=error)
        self._store_error = error

    async def _run(self) -> None:
        while True:
            await self._store.wait(SYNC_INTERVAL_S)
            try:
                await self.sync()
            except Exception as error:  # a failure of one pass must not end the loop
                log.error("controller.policy_not_followed", exc_info=error)
