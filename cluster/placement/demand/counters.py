"""Counts a front's requests by tenant and adapter set."""

from collections import OrderedDict
from dataclasses import dataclass

from cluster.domain.ids import TenantId
from cluster.placement.demand.demand import DemandKey, DemandTotals

EVERYBODY = DemandKey(TenantId(""), ())
"""Stands for all that found no room under a key of its own. It is always there."""


@dataclass(slots=True)
class _Entry:
    life: int
    since: float  # monotonic seconds: when the report before its first count was composed
    changed: int  # sequence of the first report with its present figures
    arrived: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    refused: int = 0
    waited_s: float = 0.0
    cached_tokens: int = 0


class DemandCounters:
    """Totals of one front since it started, for at most ``most`` keys; one owner.

    A key whose totals the controller has can be dropped without a loss. So a new one takes the
    place of the key that changed longest ago, if its totals have been acknowledged. If none can
    be dropped because the controller does not answer, the new request is counted under the
    tenant's key of one of its adapters, under the tenant's base, or under ``EVERYBODY``. Every
    event is counted exactly once.
    """

    def __init__(self, most: int = 8192, now: float = 0.0) -> None:
        """Count from ``now`` on, in monotonic seconds of this process.

        Raises:
            ValueError: there is no room for a single key.
        """
        if most < 1:
            raise ValueError(f"most: {most} keys hold nothing; give at least 1")
        self._most = most
        self._entries: OrderedDict[DemandKey, _Entry] = OrderedDict()  # by last change
        self._everybody = _Entry(0, now, 0)
        self._lives = 0
        self._composed = 0
        self._composed_at = now
        self._acknowledged = 0

    def __len__(self) -> int:
        return len(self._entries)

    def arrive(self, key: DemandKey, prompt_tokens: int) -> None:
        """Count a request whose decision is known."""
        entry = self._changing(key)
        entry.arrived += 1
        entry.prompt_tokens += prompt_tokens

    def refuse(self, key: DemandKey) -> None:
        """Count a refusal of a request that is counted as arrived."""
        self._changing(key).refused += 1

    def start_answer(self, key: DemandKey, waited_s: float) -> None:
        """Count a first token."""
        self._changing(key).waited_s += max(0.0, waited_s)

    def finish(self, key: DemandKey, generated_tokens: int, cached_tokens: int = 0) -> None:
        """Count an end, whatever it was; ``cached_tokens`` of the prompt needed no computing."""
        entry = self._changing(key)
        entry.finished += 1
        entry.generated_tokens += generated_tokens
        entry.cached_tokens += cached_tokens

    def changed_since(self, sequence: int, now: float = 0.0) -> tuple[DemandTotals, ...]:
        """Return the totals that changed after report ``sequence`` was composed.

        The controller has that report.
        """
        self._acknowledged = max(self._acknowledged, sequence)
        changed = []
        for key, entry in reversed(self._entries.items()):
            if entry.changed <= sequence:
                break  # so did those before it
            changed.append(_totals(key, entry, now))
        changed.reverse()
        if self._everybody.changed > sequence:
            changed.append(_totals(EVERYBODY, self._everybody, now))
        return tuple(changed)

    def compose(self, sequence: int, now: float = 0.0) -> None:
        """Note that report ``sequence`` is composed now; what changes from here comes later."""
        self._composed = max(self._composed, sequence)
        self._composed_at = now

    def forget_acknowledgements(self) -> None:
        """Take nothing as heard: the controller is a new one, and needs all totals again."""
        self._acknowledged = 0

    def _changing(self, key: DemandKey) -> _Entry:
        """Return the entry in which an event of ``key`` counts."""
        entry = self._own(key) or self._stand_in(key)
        entry.changed = self._composed + 1
        return entry

    def _own(self, key: DemandKey) -> _Entry | None:
        if key == EVERYBODY:
            return self._everybody
        entry = self._entries.get(key)
        if entry is None:
            if not self._make_room():
                return None
            self._lives += 1
            entry = _Entry(self._lives, self._composed_at, self._composed + 1)
            self._entries[key] = entry
        self._entries.move_to_end(key)
        return entry

    def _make_room(self) -> bool:
        if len(self._entries) < self._most:
            return True
        oldest = next(iter(self._entries))
        if self._entries[oldest].changed > self._acknowledged:
            return False
        del self._entries[oldest]
        return True

    def _stand_in(self, key: DemandKey) -> _Entry:
        nearest = [DemandKey(key.tenant, (digest,)) for digest in key.adapters]
        for candidate in (*nearest, DemandKey(key.tenant, ())):
            entry = self._entries.get(candidate)
            if entry is not None:
                self._entries.move_to_end(candidate)
                return entry
        return self._everybody


def _totals(key: DemandKey, entry: _Entry, now: float) -> DemandTotals:
    return DemandTotals(
        key,
        entry.arrived,
        entry.prompt_tokens,
        entry.generated_tokens,
        entry.finished,
        entry.refused,
        entry.waited_s,
        entry.life,
        entry.cached_tokens,
        max(0.0, now - entry.since),
    )
