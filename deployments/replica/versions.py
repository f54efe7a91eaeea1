"""What one replica does for the life of a version: try it, keep it, let it go."""

from collections.abc import Awaitable, Callable

import structlog

from cluster.adapters.registry.registry_view import RegistryView
from cluster.adapters.residency.manager import AdapterManager
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterCapacity, BraidError
from deployments.live_adapters import LiveAdapters

log = structlog.get_logger(__name__)

LOADED, CHECKED, REFUSED = "loaded", "checked", "refused"


class VersionKeeper:
    """Follows the registry's pins, and answers the front and the controller.

    Args:
        uses: whether a live request of this replica has been decided on a version.
        forget: told of each version that was let go.
        freed: called when some were, before that is answered.
    """

    def __init__(
        self,
        live: LiveAdapters,
        adapters: AdapterManager,
        uses: Callable[[AdapterDigest], bool],
        forget: Callable[[AdapterDigest], None],
        freed: Callable[[], Awaitable[None]],
    ) -> None:
        self._live = live
        self._adapters = adapters
        self._uses = uses
        self._forget = forget
        self._freed = freed
        self._pinned: frozenset[AdapterDigest] = frozenset()

    def start(self) -> None:
        """Pin what is pinned now, and follow."""
        self._follow(self._live.view)
        self._live.on_change(self._follow)

    async def prepare(self, digest: AdapterDigest) -> tuple[str, str, str]:
        """Bring a version in, or at least check that it could be: (outcome, code, message)."""
        try:
            await self._live.ensure((digest,))
            try:
                await self._adapters.load(digest)
                return LOADED, "", ""
            except AdapterCapacity:
                await self._adapters.read(digest)
                return CHECKED, "", ""
        except BraidError as error:
            return REFUSED, error.code, error.message

    async def unload(self, digests: tuple[AdapterDigest, ...]) -> tuple[AdapterDigest, ...]:
        """Let go of those that no request here has; they are answered when they are gone."""
        gone = []
        for digest in digests:
            if not self._uses(digest) and await self._adapters.unload(digest):
                self._forget(digest)
                gone.append(digest)
        if gone:
            await self._freed()
        return tuple(gone)

    def _follow(self, view: RegistryView) -> None:
        wanted = view.pinned
        for digest in self._pinned - wanted:
            self._adapters.unpin(digest)
        for digest in sorted(wanted - self._pinned):
            if not self._adapters.pin(digest):
                log.warning("replica.pin_not_loaded", digest=digest)
        self._pinned = wanted
