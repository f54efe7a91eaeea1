"""Turns fronts' totals into rates on two clocks."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.expected_length import FIRST_GUESS
from cluster.placement.demand.baselines import FrontBaselines
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
    """

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._rates: dict[DemandKey, KeyRate] = {}
        self._fronts = FrontBaselines()
        self._covered_until = -math.inf  # what arrived before is in the restored rates
        self._arrived = 0

    def __len__(self) -> int:
        return len(self._rates)

    def observe(self, front: str, totals: Iterable[DemandTotals], now: float) -> None:
        """Take in a front's totals; differences are taken here, so a lost report loses nothing."""
        base = self._fronts.open(front)
        for total in totals:
            more = base.raise_to(total, now)
            if more is None:
                continue
            spread = max(more.spread_s, 0.0)
            share = 1.0
            if now - spread >= self._covered_until:
                self._arrived += more.arrived
            else:  # it does not say how many of them came since then
                fresh = max(0.0, now - self._covered_until)
                share = fresh / spread if spread > 0.0 else 0.0
                spread = min(spread, fresh)
            if share == 0.0:
                continue
            rate = self._rates.get(total.key)
            if rate is None:
                rate = self._rates[total.key] = KeyRate(now)
            rate.add(more, share, spread, now)
        base.hear(now)
        self._fronts.forget_silent(now)
        if len(self._rates) > self._most:
            self._shrink(now)

    def demand(self, now: float) -> Demand:
        """Return the present demand."""
        found: list[DemandRate] = []
        typical = self._typical_answer()
        for key in sorted(self._rates):
            rate = self._rates[key]
            rate.decay(now)
            if rate.slow < NEGLIGIBLE:
                del self._rates[key]
                continue
            found.append(_described(key, rate, typical))
        return Demand(tuple(found), self._arrived)

    def to_state(self, now: float) -> dict[str, Any]:
        """Return all that a restarted controller needs, JSON-able; ages, not times."""
        for rate in self._rates.values():
            rate.decay(now)
        busiest = sorted(self._rates.items(), key=lambda item: (-item[1].slow, item[0]))
        return {
            "rates": [
                [key.tenant, list(key.adapters), *rate.figures()]
                for key, rate in busiest[:KEPT_KEYS]
            ],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], now: float) -> "DemandRates":
        """Return the rates that ``to_state`` described, as if no time had gone by since.

        Raises:
            KeyError, TypeError, ValueError: it was not ``to_state`` that described them.
        """
        rates = cls()
        for tenant, adapters, *figures in state["rates"]:
            key = DemandKey(TenantId(tenant), tuple(AdapterDigest(one) for one in adapters))
            rates._rates[key] = KeyRate.of(figures, now)
        rates._covered_until = now
        return rates

    def _typical_answer(self) -> float:
        """Return the mean of generated tokens over all keys, for keys without a finished one."""
        finished = sum(rate.finished for rate in self._rates.values())
        generated = sum(rate.generated for rate in self._rates.values())
        return generated / finished if finished > NEGLIGIBLE else float(FIRST_GUESS)

    def _shrink(self, now: float) -> None:
        """Add the least busy tenth of all keys to their tenants' base."""
        for rate in self._rates.values():
            rate.decay(now)
        ranked = sorted(self._rates, key=lambda key: (self._rates[key].slow, key))
        folded: OrderedDict[DemandKey, KeyRate] = OrderedDict()
        for key in ranked[: len(ranked) - self._most + self._most // 10]:
            home = DemandKey(key.tenant if key.adapters else TenantId(""), ())
            rate = self._rates.pop(key)
            if home in folded:
                folded[home].merge(rate)
            else:
                folded[home] = rate
        for home, rate in folded.items():
            if home in self._rates:
                self._rates[home].merge(rate)
            else:
                self._rates[home] = rate


def _described(key: DemandKey, rate: KeyRate, typical: float) -> DemandRate:
    fast, slow = rate.fast, rate.slow
    ended = rate.finished > 0.0
    cached = rate.cached / rate.finished if ended else 0.0
    return DemandRate(
        key,
        up=up_rate(fast, slow),
        down=down_rate(fast, slow),
        hold=hold_rate(fast, slow),
        prompt_tokens=max(0.0, rate.prompt / slow - cached),
        generated_tokens=rate.generated / rate.finished if ended else typical,
        fast=fast,
        slow=slow,
    )
