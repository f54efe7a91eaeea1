"""Divides the rows of a full batch among tenants: who is owed one, and who yields one.

Rows that run to their ends would let a tenant's long answers keep all others waiting. So each
tenant that has sequences is owed rows by its weight (``tenancy.shares``), and while others wait it
keeps more than these only as long as no one asks for them:

- a row that comes free goes to a tenant that is *owed* one, if such a tenant waits: it has no row,
  or fewer than its share by a whole row;
- if none is free, a tenant without a row, or with two fewer than its share, *claims* one, and the
  tenant with the most rows for its weight yields its youngest. The last row of a share comes with
  the next answer that ends, so that rows do not change hands over roundings.

Three rules keep this fair and cheap:

- only a tenant with more rows than its share yields, and it keeps its share, or all but a fraction
  of one row where the claim is for a first row. It keeps a row in any case. Hence of two tenants
  that claimed and yielded, neither can claim back while the same tenants are there;
- rows are not tokens: long prompts take more. So a tenant is owed nothing while it was served more
  tokens for its weight than all tenants together. One that comes back counts as served like
  all others, so that idle tenants collect nothing;
- what a row that yielded has to compute again is at most a twentieth of all tokens, beyond a first
  ``burst`` and the last row's own. Its full blocks stay in the prefix cache, so it is mostly a part
  of one block.

With one tenant alone nothing is owed, claimed or yielded.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cluster.domain.ids import TenantId
from cluster.errors import IntegrityError
from cluster.tenancy.shares import owed_shares

RECOMPUTED_PART = 20  # one in so many tokens may be computed again
HALF_LIFE = 8192  # steps after which a token that was served counts half


@dataclass(slots=True)
class TenantRows:
    """One tenant that has sequences."""

    weight: float
    live: int = 0  # sequences, running or waiting
    rows: int = 0  # of these, in the batch


class RowShares:
    """Counts rows and tokens of tenants.

    Args:
        rows: of the batch.
        burst: tokens that may be computed again at once.
        enabled: false leaves the batch to those who are in it.
    """

    def __init__(self, rows: int, burst: int, *, enabled: bool) -> None:
        self._rows = rows
        self._enabled = enabled
        self._burst = burst
        self._allowance: float = burst  # tokens that may be computed again now
        self._tenants: dict[TenantId, TenantRows] = {}
        self._served: dict[TenantId, int] = {}  # tokens; of tenants that left only what is ahead
        self._steps = 0

    @property
    def is_contended(self) -> bool:
        """Report whether several tenants have sequences."""
        return self._enabled and len(self._tenants) > 1

    def waiting_of(self, tenant: TenantId) -> int:
        """Return how many sequences of a tenant have no row."""
        found = self._tenants.get(tenant)
        return 0 if found is None else found.live - found.rows

    def waiting_weights(self) -> dict[TenantId, float]:
        """Return the weights of the tenants that have sequences without a row."""
        return {name: one.weight for name, one in self._tenants.items() if one.live > one.rows}

    def join(self, tenant: TenantId, weight: float) -> None:
        """Count a sequence that came; ``weight`` is its tenant's from now on."""
        found = self._tenants.get(tenant)
        if found is None:
            level = int(weight * self._level)
            self._served[tenant] = max(self._served.get(tenant, 0), level)
            found = self._tenants[tenant] = TenantRows(weight)
        found.weight = weight
        found.live += 1

    def leave(self, tenant: TenantId) -> None:
        """Count a sequence less, which has no row."""
        found = self._tenants[tenant]
        found.live -= 1
        if not found.live:
            del self._tenants[tenant]

    def start_row(self, tenant: TenantId, lost: int) -> None:
        """Count a row more.

        Args:
            lost: tokens that it must compute again, though they were kept when it yielded.
        """
        self._tenants[tenant].rows += 1
        self._allowance -= lost

    def end_row(self, tenant: TenantId) -> None:
        """Count a row less."""
        self._tenants[tenant].rows -= 1

    def count_lost(self, tokens: int) -> None:
        """Count the tokens that a row which yields must compute again in any case."""
        self._allowance -= tokens

    def count_step(self, computed: Iterable[tuple[TenantId, int]]) -> None:
        """Count the tokens of a step."""
        served, total = self._served, 0
        for tenant, count in computed:
            served[tenant] = served.get(tenant, 0) + count
            total += count
        self._allowance = min(self._burst, self._allowance + total / RECOMPUTED_PART)
        self._steps += 1
        if self._steps % HALF_LIFE == 0:
            self._served = {
                tenant: tokens // 2
                for tenant, tokens in served.items()
                if tokens > 1 or tenant in self._tenants
            }

    def parts(self) -> dict[TenantId, float]:
        """Return the part of the whole, 0 to 1, that each tenant is owed."""
        return owed_shares({name: tenant.weight for name, tenant in self._tenants.items()})

    @property
    def may_recompute(self) -> bool:
        """Report whether rows may yield now, whose tokens are computed again."""
        return self._allowance > 0

    def first_row_of(self, waiting: Iterable[TenantId]) -> TenantId | None:
        """Return the first of the tenants ``waiting`` that is owed a row and has none."""
        return next((name for name in self.owed(waiting) if not self._tenants[name].rows), None)

    def owed(self, waiting: Iterable[TenantId]) -> Iterator[TenantId]:
        """Return those of the tenants ``waiting`` that are owed a row, in their order."""
        return self._short_of(waiting, by=1)

    def claim(self, waiting: Iterable[TenantId]) -> tuple[TenantId, TenantId] | None:
        """Return the first tenant that claims a row of a full batch, and the one that yields it.

        Args:
            waiting: tenants that have sequences without a row, in their order.
        """
        if not self.may_recompute:
            return None
        tenants, shares = self._tenants, self._shares()
        for tenant in self._short_of(waiting, by=2):
            is_first = tenants[tenant].rows == 0
            yielding = [
                name
                for name, other in tenants.items()
                if _may_yield(other, shares[name], is_first=is_first)
            ]
            if yielding:
                return tenant, max(yielding, key=lambda n: tenants[n].rows / tenants[n].weight)
        return None

    def check_integrity(self, running: Iterable[TenantId], waiting: Iterable[TenantId]) -> None:
        """Compare the counts with the tenants of all sequences.

        Raises:
            IntegrityError: with both numbers.
        """
        rows = Counter(running)
        live = rows + Counter(waiting)
        counted = {name: (tenant.rows, tenant.live) for name, tenant in self._tenants.items()}
        found = {name: (rows[name], count) for name, count in live.items()}
        if counted != found:
            raise IntegrityError(f"rows and sequences are counted as {counted}, expected {found}")

    def _shares(self) -> dict[TenantId, float]:
        """Return the rows that each tenant is owed."""
        return {name: self._rows * part for name, part in self.parts().items()}

    @property
    def _level(self) -> float:
        """Return the tokens that all tenants together were served, for each unit of weight."""
        if not self._tenants:
            return 0.0
        weights = sum(tenant.weight for tenant in self._tenants.values())
        return sum(self._served[name] for name in self._tenants) / weights

    def _short_of(self, waiting: Iterable[TenantId], by: int) -> Iterator[TenantId]:
        """Yield the tenants without a row, or with ``by`` whole rows less than their shares."""
        level, shares = self._level, self._shares()
        for tenant in waiting:
            found = self._tenants[tenant]
            is_short = not found.rows or found.rows + by <= shares[tenant]
            if is_short and self._served[tenant] <= found.weight * level:
                yield tenant


def _may_yield(tenant: TenantRows, share: float, *, is_first: bool) -> bool:
    """Return whether a tenant has a row above its share; for another's first row, any part of
    one."""
    return tenant.rows - 1 >= share or (is_first and tenant.rows > max(1.0, share))
