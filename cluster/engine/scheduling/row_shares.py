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
  tokens for its weight than those that ask for more, together;
- what rows lose as they yield is at most a twentieth of all tokens, beyond a first ``burst`` and
  the last row's own. Full blocks stay in the prefix cache, so it is mostly a part of one block.
  Those that others need before the row comes back use the rest of the twentieth up, no more.

Unused capacity costs nothing and earns nothing. What those that ask for more were served, for their
weights, is a floor that never falls. Who comes begins there, and who is satisfied (it has all its
rows, and none above its share) is lifted to it. Where no tenant asks, it is the most that one was
served.

With one tenant alone nothing is owed, claimed or yielded.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
    served: float  # tokens, each divided by the weight of its time
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
        self._parts: Mapping[TenantId, float] = {}  # empty: to be computed
        self._floor = 0.0  # what a tenant that comes counts as served
        self._ahead: dict[TenantId, float] = {}  # of tenants that left, served more than that
        self._steps = 0

    @property
    def is_contended(self) -> bool:
        """Report whether several tenants have sequences."""
        return self._enabled and len(self._tenants) > 1

    def has_row(self, tenant: TenantId) -> bool:
        """Report whether a tenant that has sequences has a row."""
        return self._tenants[tenant].rows > 0

    def waiting_of(self, tenant: TenantId) -> int:
        """Return how many sequences of a tenant have no row."""
        found = self._tenants.get(tenant)
        return 0 if found is None else found.live - found.rows

    def waiting_weights(self) -> dict[TenantId, float]:
        """Return the weights of the tenants that have sequences without a row."""
        return {name: one.weight for name, one in self._tenants.items() if one.live > one.rows}

    def weights_of(self, tenants: Iterable[TenantId]) -> dict[TenantId, float]:
        """Return the weights of tenants that have sequences."""
        return {name: self._tenants[name].weight for name in tenants}

    def join(self, tenant: TenantId, weight: float) -> None:
        """Count a sequence that came; ``weight`` is its tenant's from now on."""
        found = self._tenants.get(tenant)
        if found is None:
            served = max(self._floor, self._ahead.pop(tenant, self._floor))
            found = self._tenants[tenant] = TenantRows(weight, served)
            self._parts = {}
        elif found.weight != weight:
            found.weight = weight
            self._parts = {}
        found.live += 1

    def leave(self, tenant: TenantId) -> None:
        """Count a sequence less, which has no row."""
        found = self._tenants[tenant]
        found.live -= 1
        if not found.live:
            del self._tenants[tenant]
            self._parts = {}
            self._ahead[tenant] = found.served
            self._raise_floor()
            self._ahead = {n: served for n, served in self._ahead.items() if served > self._floor}

    def start_row(self, tenant: TenantId, lost: int) -> None:
        """Count a row more.

        Args:
            lost: tokens that it must compute again, though they were kept when it yielded. They
                make no debt: others needed their blocks, and would have taken the row's.
        """
        self._tenants[tenant].rows += 1
        self._allowance = max(self._allowance - lost, min(self._allowance, 0))

    def end_row(self, tenant: TenantId) -> None:
        """Count a row less."""
        self._tenants[tenant].rows -= 1

    def count_lost(self, tokens: int) -> None:
        """Count the tokens that a row which yields must compute again in any case."""
        self._allowance -= tokens

    def count_step(self, computed: Iterable[tuple[TenantId, int]]) -> None:
        """Count the tokens of a step."""
        total = 0
        for tenant, count in computed:
            found = self._tenants[tenant]
            found.served += count / found.weight
            total += count
        self._raise_floor()
        self._allowance = min(self._burst, self._allowance + total / RECOMPUTED_PART)
        self._steps += 1
        if self._steps % HALF_LIFE == 0:
            self._halve()

    def parts(self) -> Mapping[TenantId, float]:
        """Return the part of the whole, 0 to 1, that each tenant is owed."""
        if not self._parts:
            self._parts = owed_shares({name: one.weight for name, one in self._tenants.items()})
        return self._parts

    @property
    def may_recompute(self) -> bool:
        """Report whether rows may yield now, whose tokens are computed again."""
        return self._allowance > 0

    def first_row_of(self, waiting: Iterable[TenantId]) -> TenantId | None:
        """Return the first of the tenants ``waiting`` that is owed a row and has none."""
        return next((name for name in self.owed(waiting) if not self.has_row(name)), None)

    def owed(self, waiting: Iterable[TenantId]) -> Iterator[TenantId]:
        """Return those of the tenants ``waiting`` that are owed a row, in their order."""
        return self._short_of(waiting, by=1)

    def claims(self, waiting: Iterable[TenantId]) -> Iterator[tuple[TenantId, list[TenantId]]]:
        """Yield the tenants that claim a row of a full batch, in their order.

        With each come those that may yield one, the tenant with most rows for its weight first.

        Args:
            waiting: tenants that have sequences without a row, in their order.
        """
        if not self.may_recompute:
            return
        found: dict[bool, list[TenantId]] = {}
        for tenant in self._short_of(waiting, by=2):
            is_first = not self.has_row(tenant)
            if is_first not in found:
                found[is_first] = self._yielding(is_first=is_first)
            if found[is_first]:
                yield tenant, found[is_first]

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

    def _share(self, tenant: TenantId) -> float:
        """Return the rows that a tenant is owed."""
        return self._rows * self.parts()[tenant]

    def _raise_floor(self) -> None:
        """Raise the floor to what those that ask for more were served, and the others to it."""
        satisfied: list[TenantRows] = []
        served = weights = highest = 0.0
        rows, tenants = self._rows, self._tenants.values()
        total = sum([tenant.weight for tenant in tenants])
        for tenant in tenants:
            if tenant.live == tenant.rows <= rows * (tenant.weight / total):
                satisfied.append(tenant)
                if tenant.served > highest:
                    highest = tenant.served
            else:
                served += tenant.weight * tenant.served
                weights += tenant.weight
        if weights:
            level = served / weights
        elif satisfied:
            level = highest
        else:
            level = max(self._ahead.values(), default=0.0)
        floor = self._floor
        if level > floor:
            floor = self._floor = level
        for tenant in satisfied:
            if tenant.served < floor:
                tenant.served = floor

    def _halve(self) -> None:
        """Count half of what tenants were served more or less than the floor, which becomes 0."""
        for tenant in self._tenants.values():
            tenant.served = (tenant.served - self._floor) / 2
        self._ahead = {name: (ahead - self._floor) / 2 for name, ahead in self._ahead.items()}
        self._floor = 0.0

    def _short_of(self, waiting: Iterable[TenantId], by: int) -> Iterator[TenantId]:
        """Yield the tenants without a row, or with ``by`` whole rows less than their shares, that
        are not ahead by a token."""
        for name in waiting:
            tenant = self._tenants[name]
            is_short = not tenant.rows or tenant.rows + by <= self._share(name)
            if is_short and tenant.weight * (tenant.served - self._floor) < 1:
                yield name

    def _yielding(self, *, is_first: bool) -> list[TenantId]:
        """Return the tenants with a row above their shares; for another's first row, with any part
        of one. The one with the most rows for its weight comes first."""
        names = [
            name
            for name, tenant in self._tenants.items()
            if tenant.rows - 1 >= self._share(name)
            or (is_first and tenant.rows > max(1.0, self._share(name)))
        ]
        tenants = self._tenants
        return sorted(names, key=lambda n: tenants[n].rows / tenants[n].weight, reverse=True)
