"""Bounds how many sequences wait at a front, and shares the places among its tenants."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.domain.ids import TenantId
from cluster.errors import Overloaded
from cluster.tenancy.shares import DEFAULT_WEIGHT
from cluster.tenancy.waiting_tenants import WaitingTenants


class WaitingPlace:
    """One sequence's place; it is taken once, however often the sequence waits."""

    def __init__(self, waiting: WaitingTenants, tenant: TenantId, weight: float) -> None:
        self.tenant = tenant
        self.weight = weight
        self._waiting = waiting
        self._is_taken = False

    def take(self, retry_after_s: float = 1.0) -> None:
        """Take the place before a wait.

        Args:
            retry_after_s: until the tenant should try again where it has too many.

        Raises:
            Overloaded: the places are full, and the tenant has its share of them.
        """
        if self._is_taken:
            return
        if self._waiting.is_full_for(self.tenant, self.weight):
            seconds = max(1, math.ceil(retry_after_s))
            raise Overloaded(
                f"{self._waiting.of(self.tenant)} sequences of this tenant wait for a replica "
                f"already, of {self._waiting.most} that may wait here; try again in {seconds} s",
                retry_after_s=seconds,
            )
        self._waiting.add(self.tenant, self.weight)
        self._is_taken = True

    def leave(self) -> None:
        """Give the place back, if it was taken."""
        if self._is_taken:
            self._waiting.remove(self.tenant)
            self._is_taken = False


class WaitingPlaces:
    """Gives places to the sequences of one front; one owner.

    Args:
        most: sequences that may wait; beyond it only tenants are let in that have less than
            their share of them.
    """

    def __init__(self, most: int) -> None:
        self._waiting = WaitingTenants(most)

    def __len__(self) -> int:
        """Return how many places are taken."""
        return self._waiting.total

    def follow(self, most: int) -> None:
        """Change how many may wait; those that do stay."""
        self._waiting.most = most

    @contextmanager
    def place(self, tenant: TenantId, weight: float = DEFAULT_WEIGHT) -> Iterator[WaitingPlace]:
        """Hand out a place for as long as the block runs; it is not taken yet."""
        place = WaitingPlace(self._waiting, tenant, weight)
        try:
            yield place
        finally:
            place.leave()
