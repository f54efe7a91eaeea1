"""Turns fronts' totals into rates on two clocks."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.expected_length import FIRST_GUESS
from cluster.placement.demand.baselines import FrontBaselines, Increase
from cluster.placement.demand.clocks import down_rate, hold_rate, up_rate
from cluster.placement.demand.demand import Demand, DemandKey, DemandRate, DemandTotals
from cluster.placement.demand.key_rate import KeyRate

MOST_KEYS = 32_768
KEPT_KEYS = 4_096  # in the state, the busiest
NEGLIGIBLE = 1e-5  # requests per second: a lone request, half an hour later


class DemandRates:
    """Rates of the whole cluster; one owner. Times are monotonic seconds of its process.

    Reports may be lost, repeated or come in any order: totals only grow, so what is new in a
    report is what exceeds all reports of the same front before it. Requests that arrived between
    two reports are taken as spread evenly over that time, and those of an unknown front's key
    over the key's age.

    What came before the first report is counted apart, as the fronts' totals say, until
    ``restore`` knows it better.
    """

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._rates: dict[DemandKey, KeyRate] = {}
        self._earlier: dict[DemandKey, KeyRate] = {}  # what came before ``_since``
        self._fronts = FrontBaselines()
        self._since: float | None = None  # the first report
        self._restored = False
        self._arrived = 0

    def __len__(self) -> int:
        return len(self._rates.keys() | self._earlier.keys())

    def observe(self, front: str, totals: Iterable[DemandTotals], now: float) -> None:
        """Take in a front's totals; differences are taken here, so a lost report loses nothing."""
        since = self._since = now if self._since is None else self._since
        base = self._fronts.open(front)
        for total in totals:
            more = base.raise_to(total, now)
            if more is None:
                continue
            spread = max(more.spread_s, 0.0)
            early = min(spread, max(0.0, since - (now - spread)))  # seconds of it before ``since``
            share = early / spread if spread > 0.0 else 0.0
            if early == 0.0 or not self._restored:  # else nothing says how many came since then
                self._arrived += more.arrived
            if share < 1.0:
                _add(self._rates, total.key, more, 1.0 - share, spread - early, now, now)
            if share > 0.0 and not self._restored:
                _add(self._earlier, total.key, more, share, early, since, now)
        base.hear(now)
        self._fronts.forget_silent(now)
        for rates in (self._rates, self._earlier):
            if len(rates) > self._most:
                self._shrink(rates, now)

    def demand(self, now: float) -> Demand:
        """Return the present demand."""
        found: list[DemandRate] = []
        rates = self._all(now)
        typical = _typical_answer(rates.values())
        for key in sorted(rates):
            if rates[key].slow < NEGLIGIBLE:
                self._rates.pop(key, None)
                self._earlier.pop(key, None)
                continue
            found.append(_described(key, rates[key], typical))
        return Demand(tuple(found), self._arrived)

    def to_state(self, now: float) -> dict[str, Any]:
        """Return all that a restarted controller needs, JSON-able; ages, not times."""
        busiest = sorted(self._all(now).items(), key=lambda item: (-item[1].slow, item[0]))
        return {
            "rates": [
                [key.tenant, list(key.adapters), *rate.figures()]
                for key, rate in busiest[:KEPT_KEYS]
            ],
        }

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Take in the rates that ``to_state`` described in an earlier life, once.

        They stand for the time before the first report, as if none had gone by between the two
        lives. What was counted since then stays.

        Raises:
            KeyError, TypeError, ValueError: it was not ``to_state`` that described them; nothing
                has changed then.
        """
        since = now if self._since is None else self._since
        restored = {
            DemandKey(TenantId(tenant), tuple(AdapterDigest(one) for one in adapters)): KeyRate.of(
                figures, since
            )
            for tenant, adapters, *figures in state["rates"]
        }
        for key, rate in restored.items():
            _merge(self._rates, key, rate, now)
        self._earlier, self._since, self._restored = {}, since, True

    def _all(self, now: float) -> dict[DemandKey, KeyRate]:
        """Return every key's rate at ``now``."""
        for rates in (self._rates, self._earlier):
            for rate in rates.values():
                rate.decay(now)
        self._earlier = {k: rate for k, rate in self._earlier.items() if rate.slow >= NEGLIGIBLE}
        found = dict(self._rates)
        for key, rate in self._earlier.items():
            both = KeyRate.of(rate.figures(), now)
            if key in found:
                both.merge(found[key])
            found[key] = both
        return found

    def _shrink(self, rates: dict[DemandKey, KeyRate], now: float) -> None:
        """Add the least busy tenth of all keys to their tenants' base."""
        for rate in rates.values():
            rate.decay(now)
        ranked = sorted(rates, key=lambda key: (rates[key].slow, key))
        folded: dict[DemandKey, KeyRate] = {}
        for key in ranked[: len(ranked) - self._most + self._most // 10]:
            home = DemandKey(key.tenant if key.adapters else TenantId(""), ())
            rate = rates.pop(key)
            _merge(folded, home, rate, now)
        for home, rate in folded.items():
            _merge(rates, home, rate, now)


def _add(
    rates: dict[DemandKey, KeyRate],
    key: DemandKey,
    more: Increase,
    share: float,
    spread_s: float,
    until: float,
    now: float,
) -> None:
    """Add a share of an increase, spread evenly over the seconds that end at ``until``."""
    known = rates.get(key)
    if known is not None and until >= now:
        known.add(more, share, spread_s, now)
        return
    rate = KeyRate(until)
    rate.add(more, share, spread_s, until)
    _merge(rates, key, rate, now)


def _merge(rates: dict[DemandKey, KeyRate], key: DemandKey, rate: KeyRate, now: float) -> None:
    """Add a rate to a key's, both as of ``now``."""
    rate.decay(now)
    if key in rates:
        rates[key].decay(now)
        rates[key].merge(rate)
    else:
        rates[key] = rate


def _typical_answer(rates: Collection[KeyRate]) -> float:
    """Return the mean of generated tokens over all keys, for keys without a finished one."""
    finished = sum(rate.finished for rate in rates)
    generated = sum(rate.generated for rate in rates)
    return generated / finished if finished > NEGLIGIBLE else float(FIRST_GUESS)


def _described(key: DemandKey, rate: KeyRate, typical: float) -> DemandRate:
    fast, slow = rate.fast, rate.slow
    ended = rate.finished > 0.0
    cached = rate.cached / rate.finished if ended else 0.0
    return DemandRate(
        key,
        up_rate(fast, slow),
        down_rate(fast, slow),
        hold_rate(fast, slow),
        max(0.0, rate.prompt / slow - cached),
        rate.generated / rate.finished if ended else typical,
        fast,
        slow,
    )
