"""The soak's books: what was sent, how each request ended here, and what the server counted."""

import threading
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cluster.domain.request import Outcome


@dataclass
class Ledger:
    """Every request that was written to a socket, and its one end as the client saw it.

    A client that leaves does not know whether the server had finished already, so the two sides
    may name such a request differently. All others must be named alike.
    """

    open: set[int] = field(default_factory=set)
    ended: Counter[Outcome] = field(default_factory=Counter)
    by_kind: dict[str, Counter[Outcome]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    sent: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, number: int) -> None:
        """Note that a request's bytes are on their way."""
        with self._lock:
            if number in self.open:
                self.problems.append(f"request {number} was sent twice")
            self.open.add(number)
            self.sent += 1

    def end(
        self, number: int, kind: str, outcome: Outcome, allowed: Collection[Outcome], detail: str
    ) -> None:
        """Note the end of a request; an outcome that its kind cannot have is a problem."""
        with self._lock:
            if number not in self.open:
                self.problems.append(f"request {number} ({kind}) ended without being open")
                return
            self.open.remove(number)
            self.ended[outcome] += 1
            self.by_kind.setdefault(kind, Counter())[outcome] += 1
            if outcome not in allowed:
                self.problems.append(f"request {number} ({kind}) ended as {outcome}: {detail}")

    def lose(self, number: int, kind: str, detail: str) -> None:
        """Note a request without an end that a client could understand."""
        with self._lock:
            self.open.discard(number)
            self.problems.append(f"request {number} ({kind}) had no end: {detail}")

    def compare(self, counted: Mapping[Outcome, int]) -> list[str]:
        """List what does not agree with the server's counters; call it while nothing is open.

        Args:
            counted: the server's ``braid_requests_total`` by outcome, since the ledger began.
        """
        found = []
        if self.open:
            found.append(f"{len(self.open)} requests are still open, expected 0")
        total = sum(counted.values())
        if total != self.sent:
            found.append(f"the server counted {total} requests, {self.sent} were sent")
        if sum(self.ended.values()) != self.sent:
            found.append(f"{sum(self.ended.values())} requests ended here, {self.sent} were sent")
        left = self.ended[Outcome.CANCELLED]
        for outcome in Outcome:
            here, there = self.ended[outcome], counted.get(outcome, 0)
            low, high = (0, here) if outcome is Outcome.CANCELLED else (here, here + left)
            if not low <= there <= high:
                found.append(f"{outcome}: the server counted {there}, {here} ended so here")
        return found
