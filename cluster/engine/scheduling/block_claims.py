"""Finds rows whose KV blocks make room: for a tenant that has no row, and for rows that grow.

Where blocks run out before rows, a tenant's long prompts would keep all others waiting. So a tenant
without a row claims blocks too, within its share of them. Tenants that hold more than their shares
yield rows for it, and each keeps one, so none of them can claim back. The same tenants' rows go
first where a row that decodes has no block for its next token.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.domain.ids import TenantId
from cluster.engine.sequence import EngineSequence


@dataclass(frozen=True, slots=True)
class KvRoom:
    """Tells of an engine's KV blocks how many are free, and who would need or free how many."""

    total: int
    free: int
    needed: Callable[[EngineSequence], int]  # by all tokens of a sequence that waits
    reserve: Callable[[EngineSequence], int]  # that must be left when it enters the batch
    held: Callable[[EngineSequence], int]  # that come free when a row leaves the batch


def rows_for_blocks(
    claimant: EngineSequence,
    running: Sequence[EngineSequence],
    room: KvRoom,
    parts: Mapping[TenantId, float],
) -> list[EngineSequence] | None:
    """Return the rows that must yield so that a claimant has its blocks; None: there are too few.

    Args:
        running: all rows that may stay.
        parts: of the whole, 0 to 1, that each tenant is owed.
    """
    own, tenant = room.needed(claimant), claimant.request.tenant
    needed = own + room.reserve(claimant)
    if needed <= room.free:
        return []
    has_row = any(row.request.tenant == tenant for row in running)
    if has_row or own > parts[tenant] * room.total:
        return None
    left, yielding = list(running), list[EngineSequence]()
    while needed > room.free + sum(map(room.held, yielding)):
        row = _next_row(left, room, parts)
        if row is None:
            return None
        left.remove(row)
        yielding.append(row)
    return yielding


def row_to_preempt(
    decode: EngineSequence,
    running: Sequence[EngineSequence],
    room: KvRoom,
    parts: Mapping[TenantId, float],
) -> EngineSequence:
    """Return the row that gives its blocks up so that a decode has its next one.

    It is the newest one after ``decode`` of a tenant with several rows and more blocks than its
    share; else the newest of all, be it ``decode`` itself.

    Args:
        running: all rows, in order of admission.
        parts: of the whole, 0 to 1, that each tenant is owed.
    """
    above = _above_shares(running, room, parts)
    later = running[running.index(decode) + 1 :]
    return next((row for row in reversed(later) if row.request.tenant in above), running[-1])


def youngest_rows(running: Sequence[EngineSequence], tenant: TenantId) -> list[EngineSequence]:
    """Return the rows of a tenant that may yield: those that yielded least come first, of these
    the youngest."""
    rows = [row for row in running if row.request.tenant == tenant and row.may_yield]
    return sorted(rows, key=lambda row: (row.num_preemptions, -row.admission))


def _next_row(
    running: Sequence[EngineSequence], room: KvRoom, parts: Mapping[TenantId, float]
) -> EngineSequence | None:
    """Return a row of the tenant with the most blocks for its weight that is above its share."""
    above = _above_shares(running, room, parts)
    return next((row for name in above for row in youngest_rows(running, name)), None)


def _above_shares(
    running: Sequence[EngineSequence], room: KvRoom, parts: Mapping[TenantId, float]
) -> list[TenantId]:
    """Return the tenants with several rows that hold more than their shares of the blocks, the one
    with the most for its weight first."""
    rows, held = Counter[TenantId](), Counter[TenantId]()
    for row in running:
        rows[row.request.tenant] += 1
        held[row.request.tenant] += room.held(row)
    above = [name for name in rows if rows[name] > 1 and held[name] > parts[name] * room.total]
    return sorted(above, key=lambda name: held[name] / parts[name], reverse=True)
