"""Counts open connections, in all and for each client address."""

from collections import Counter
from typing import Protocol

from deployments.front.http.client_network import network_of


class Connection(Protocol):
    """Represents one open connection."""

    @property
    def idle_since(self) -> float | None:
        """Return since when (monotonic, seconds) no request is open or arriving; else None."""
        ...

    def close_idle(self) -> None:
        """Close it, so that another one has its place."""
        ...

    def check(self, now: float) -> None:
        """End it if its time is up."""
        ...


class ConnectionBook:
    """Counts connections; if no place is left, the longest idle one gives up its own."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._open: dict[Connection, str] = {}
        self._by_address: Counter[str] = Counter()
        self.refused = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection, address: str) -> bool:
        """Count a connection; false where it must not stay."""
        key = network_of(address)
        if self._by_address[key] >= self._most_per_address and not self._make_room(key):
            self.refused += 1
            return False
        if len(self._open) >= self._most and not self._make_room(None):
            self.refused += 1
            return False
        self._open[connection] = key
        self._by_address[key] += 1
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection; one that was not counted is fine."""
        key = self._open.pop(connection, None)
        if key is None:
            return
        self._by_address[key] -= 1
        if not self._by_address[key]:
            del self._by_address[key]

    def check(self, now: float) -> None:
        """End every connection whose time is up. ``now`` is monotonic, in seconds."""
        for connection in list(self._open):
            connection.check(now)

    def _make_room(self, key: str | None) -> bool:
        """Close the connection that has been idle longest, of one address or of all."""
        idle = [
            (since, number, connection)
            for number, (connection, address) in enumerate(self._open.items())
            if (key is None or address == key) and (since := connection.idle_since) is not None
        ]
        if not idle:
            return False
        _, _, oldest = min(idle)
        self.remove(oldest)
        oldest.close_idle()
        return True
