"""Books of one replica's host tier: which adapters are kept in memory, who goes next.

Pure: no tensors, no tasks. ``residency.host_tier`` is the one owner. An entry takes its
bytes from the moment that its files begin to be read, so that room is promised once. Nothing goes
that is being read, lent out or kept: a load copies from it, a waiting request will need it, or it
is pinned.
"""

from collections import Counter
from dataclasses import dataclass

from cluster.adapters.residency.eviction import Evictable, choose_victims, in_order, weight_of
from cluster.adapters.residency.shares import Amount, Holding, ShareGuard, TenantUse
from cluster.clock import Clock
from cluster.domain.adapter import AdapterState, ResidentAdapter
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class HostCandidate:
    """A version that may be kept in host memory."""

    digest: AdapterDigest
    alias: str
    rank: int
    nbytes: int  # packed, as a slot will hold it


@dataclass(slots=True)
class _Entry:
    candidate: HostCandidate
    there: bool = False  # else its files are being read
    holds: int = 0
    uses: int = 0
    priority: int = 0
    last_use: int = 0
    last_used: float = 0.0


class HostBooks:
    """State machine over bytes: absent, being read (FETCHING), there (ON_HOST).

    A copy's cost is what reading it anew would take: as long per byte for all, so that by byte all
    cost the same and uses decide.

    Args:
        memory_bytes: of all copies together; 0 keeps none.
        share_window_s: how long a use counts for its tenant's share.
    """

    def __init__(self, memory_bytes: int, share_window_s: float, clock: Clock) -> None:
        self.memory_bytes = memory_bytes
        self._clock = clock
        self._use = TenantUse(share_window_s, clock)
        self._entries: dict[AdapterDigest, _Entry] = {}
        self._pinned: set[AdapterDigest] = set()
        self._holds: dict[int, AdapterDigest] = {}
        self._next_hold = 0
        self._bytes_used = 0
        self._inflation = 0
        self._use_number = 0
        self.evictions = 0

    def reserve(
        self, wanted: HostCandidate, tenant: TenantId | None
    ) -> tuple[AdapterDigest, ...] | None:
        """Promise room to a version whose files are about to be read; who must go for it.

        Those are gone from these books when this returns. None where there is no room beside what
        is in use and what is others'. ``tenant`` None is the cluster's own wish: it takes room that
        is free or that nobody has used lately.
        """
        if wanted.digest in self._entries:
            raise IntegrityError(f"host tier: {wanted.digest} is reserved already")
        short = self._bytes_used + wanted.nbytes - self.memory_bytes
        if wanted.nbytes > self.memory_bytes:
            return None
        victims = self._choose(wanted, tenant, short) if short > 0 else ()
        if victims is None:
            return None
        for victim in victims:
            self._inflation = max(self._inflation, victim.priority)
            self.evictions += 1
            self._remove(victim.digest)
        self._entries[wanted.digest] = _Entry(wanted)
        self._bytes_used += wanted.nbytes
        self._touch(wanted.digest)
        if tenant is not None:
            self._use.note(tenant, (wanted.digest,))
        return tuple(victim.digest for victim in victims)

    def arrived(self, digest: AdapterDigest) -> None:
        """Its tensors are in memory: FETCHING -> ON_HOST."""
        self._of_state(digest, there=False).there = True

    def failed(self, digest: AdapterDigest) -> None:
        """Its files could not be read: FETCHING -> absent."""
        self._of_state(digest, there=False)
        self._holds = {hold: held for hold, held in self._holds.items() if held != digest}
        self._remove(digest)

    def use(self, digest: AdapterDigest, tenant: TenantId | None) -> None:
        """It is being copied to a slot, or read for that."""
        self._entries[digest].uses += 1
        self._touch(digest)
        if tenant is not None:
            self._use.note(tenant, (digest,))

    def hold(self, digest: AdapterDigest) -> int | None:
        """Keep it until ``unhold`` of what is returned; None where it is not here."""
        if digest not in self._entries:
            return None
        self._entries[digest].holds += 1
        self._next_hold += 1
        self._holds[self._next_hold] = digest
        return self._next_hold

    def unhold(self, hold: int) -> None:
        """End a hold; one whose version could not be read has ended already."""
        digest = self._holds.pop(hold, None)
        if digest is not None:
            self._entries[digest].holds -= 1

    def drop(self, digest: AdapterDigest) -> bool:
        """Let it go now; False while it is being read or held. One that is not here is gone."""
        entry = self._entries.get(digest)
        if entry is None:
            return True
        if not entry.there or entry.holds:
            return False
        self._remove(digest)
        return True

    def pin(self, digest: AdapterDigest) -> None:
        """Never evict this version, whether it is here yet or not."""
        self._pinned.add(digest)

    def unpin(self, digest: AdapterDigest) -> None:
        """Undo ``pin``."""
        self._pinned.discard(digest)

    @property
    def bytes_used(self) -> int:
        """Bytes promised or taken."""
        return self._bytes_used

    def __contains__(self, digest: AdapterDigest) -> bool:
        """Whether it has its room, read or being read."""
        return digest in self._entries

    def residents(self) -> tuple[ResidentAdapter, ...]:
        """Everything that takes memory, by digest."""
        return tuple(
            ResidentAdapter(
                digest=digest,
                alias=entry.candidate.alias,
                state=AdapterState.ON_HOST if entry.there else AdapterState.FETCHING,
                nbytes=entry.candidate.nbytes,
                rank=entry.candidate.rank,
                leases=0,
                pinned=digest in self._pinned,
                last_used=entry.last_used,
            )
            for digest, entry in sorted(self._entries.items())
        )

    def check_integrity(self) -> None:
        """Verify that the books balance.

        Raises:
            IntegrityError: with both numbers.
        """
        total = sum(entry.candidate.nbytes for entry in self._entries.values())
        if total != self._bytes_used:
            raise IntegrityError(f"host tier: bytes: found {total}, expected {self._bytes_used}")
        if total > self.memory_bytes:
            raise IntegrityError(f"host tier: {total} bytes used of {self.memory_bytes}")
        holds = Counter(self._holds.values())
        for digest in self._entries.keys() | holds.keys():
            found = self._entries[digest].holds if digest in self._entries else 0
            if found != holds[digest]:
                raise IntegrityError(
                    f"host tier: holds of {digest}: found {found}, expected {holds[digest]}"
                )

    def _choose(
        self, wanted: HostCandidate, tenant: TenantId | None, short: int
    ) -> tuple[Evictable, ...] | None:
        idle = in_order(
            Evictable(digest, self._holding(digest), False, entry.priority, entry.last_use)
            for digest, entry in self._entries.items()
            if self._is_idle(digest) and (tenant is not None or not self._use.users(digest))
        )
        guard = None if tenant is None else self._guard(wanted, tenant)
        victims = choose_victims(idle, 0, short, guard)
        if victims is None and guard is not None and guard.too_wide:
            return choose_victims(idle, 0, short)
        return victims

    def _guard(self, wanted: HostCandidate, tenant: TenantId) -> ShareGuard | None:
        tenants = self._use.tenants()
        if tenants <= {tenant}:
            return None
        pinned = [e.candidate.nbytes for d, e in self._entries.items() if d in self._pinned]
        need = Amount(0, wanted.nbytes)
        return ShareGuard(
            {digest: self._holding(digest) for digest in self._entries.keys() - self._pinned},
            Amount(0, self.memory_bytes - sum(pinned)),
            tenants,
            tenant,
            need,
            need,
        )

    def _holding(self, digest: AdapterDigest) -> Holding:
        entry = self._entries[digest]
        return Holding(entry.candidate.nbytes, self._use.users(digest), slots=0)

    def _is_idle(self, digest: AdapterDigest) -> bool:
        entry = self._entries[digest]
        return entry.there and not entry.holds and digest not in self._pinned

    def _of_state(self, digest: AdapterDigest, *, there: bool) -> _Entry:
        entry = self._entries.get(digest)
        if entry is None or entry.there is not there:
            raise IntegrityError(f"host tier: {digest} is not being read")
        return entry

    def _remove(self, digest: AdapterDigest) -> None:
        self._bytes_used -= self._entries.pop(digest).candidate.nbytes
        self._use.forget(digest)

    def _touch(self, digest: AdapterDigest) -> None:
        self._use_number += 1
        entry = self._entries[digest]
        entry.last_use = self._use_number
        entry.last_used = self._clock.wall()
        entry.priority = self._inflation + weight_of(entry.uses)
