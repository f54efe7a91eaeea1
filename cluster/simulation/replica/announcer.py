"""Tells fronts of a simulated replica's state: by looks at even times, and by heartbeats."""

import math
from typing import Protocol

from cluster.domain.adapter import ResidentAdapter
from cluster.domain.replica import ReplicaSnapshot
from cluster.simulation.replica.link_end import LinkEnd
from cluster.simulation.spec import Delays
from cluster.simulation.virtual.virtual_process import VirtualProcess


class StateSource(Protocol):
    """The replica, as it is asked for its state."""

    @property
    def load(self) -> tuple[int, int]:
        """Return the requests that run and that wait."""
        ...

    @property
    def host_version(self) -> int:
        """Return a number that changes whenever ``on_host`` does."""
        ...

    def snapshot(self, *, work: bool = True) -> ReplicaSnapshot:
        """Return a snapshot; without ``work``, the totals of its work are left out."""
        ...

    def on_host(self) -> tuple[ResidentAdapter, ...]:
        """Return the adapters in host memory."""
        ...


class Announcer:
    """Sends snapshots to the fronts that are linked; the work in them is of no use there."""

    def __init__(self, source: StateSource, process: VirtualProcess, delays: Delays) -> None:
        self.links: dict[LinkEnd, None] = {}
        self._source = source
        self._process = process
        self._delays = delays
        self._load: tuple[int, int] | None = None  # last sent
        self._sent_at = -delays.heartbeat_s
        self._host_version = -1
        self._began = process.loop.now
        self._looking = False
        self._beat()

    def connect(self, link: LinkEnd) -> None:
        """Add a link, and greet it."""
        self.links[link] = None
        snapshot, on_host = self._source.snapshot(work=False), self._source.on_host()
        link.process.after(self._delays.hop_s, link.hear_snapshot, snapshot, on_host)

    def note_change(self) -> None:
        """Let the next look at the state, which comes at even times, find a change."""
        if self._looking:
            return
        self._looking = True
        every, now = self._delays.publish_s, self._process.loop.now
        looks = math.floor((now - self._began) / every + 1e-6) + 1
        self._process.after(max(0.0, self._began + looks * every - now), self._look)

    def publish(self) -> None:
        """Send a snapshot now."""
        self._load = self._source.load
        self._sent_at = self._process.loop.now
        on_host: tuple[ResidentAdapter, ...] | None = None
        if self._source.host_version != self._host_version:
            self._host_version = self._source.host_version
            on_host = self._source.on_host()
        if not self.links:
            return
        snapshot = self._source.snapshot(work=False)
        for link in self.links:
            link.process.after(self._delays.hop_s, link.hear_snapshot, snapshot, on_host)

    def _look(self) -> None:
        self._looking = False
        load = self._source.load
        if load != self._load or self._source.host_version != self._host_version:
            self.publish()
        if load[1]:
            self.note_change()  # who waits may begin at any step

    def _beat(self) -> None:
        """Publish if nothing else was published for so long."""
        every = self._delays.heartbeat_s
        left = every - (self._process.loop.now - self._sent_at)
        if left <= 1e-6:
            self.publish()
            left = every
        self._process.after(left, self._beat)
