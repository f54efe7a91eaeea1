"""The requests of one engine, shared by the threads that submit and the thread that steps.

The scheduler and everything here is touched under the lock ``changed`` alone. The model never runs
under it, so submitting never waits for a step.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from cluster.domain.ids import RequestId
from cluster.engine.scheduling.block_pool import BlockPool
from cluster.engine.scheduling.scheduler import Scheduler
from cluster.errors import IntegrityError


@dataclass(slots=True, eq=False)
class EngineRequests:
    """The scheduler, the books around it, and the orders that the step thread has to follow."""

    scheduler: Scheduler
    pool: BlockPool
    changed: threading.Condition = field(default_factory=threading.Condition)  # the lock
    seeds: dict[RequestId, int] = field(default_factory=dict)  # of every live request
    unstarted: set[RequestId] = field(default_factory=set)  # live, not yet counted as prefilled
    cancelled: list[RequestId] = field(default_factory=list)  # to be ended before the next step
    recalled: list[RequestId] = field(default_factory=list)  # to be handed back once without rows
    stopping: bool = False  # takes no more requests, and ends when none is live
    aborting: bool = False  # ends those that are live, too
    lost: Exception | None = None  # what has ended the device's use, if something has

    def forget(self, request_id: RequestId) -> None:
        """Drop a request that the scheduler does not have any more."""
        del self.seeds[request_id]
        self.unstarted.discard(request_id)

    def check_integrity(self) -> None:
        """Check scheduler, pool and books against each other.

        Raises:
            IntegrityError: with both numbers.
        """
        with self.changed:
            self.scheduler.check_integrity()
            live = {sequence.request_id for sequence in self.scheduler.sequences}
            if live != self.seeds.keys():
                raise IntegrityError(f"{len(live)} live sequences, {len(self.seeds)} seeds kept")
            if not self.unstarted <= live:
                raise IntegrityError(
                    f"{len(self.unstarted)} sequences wait for their prefill, {len(live)} live"
                )
            if not live and self.pool.num_free != self.pool.num_blocks:
                raise IntegrityError(
                    f"{self.pool.num_free} blocks are free with no sequence live, "
                    f"expected {self.pool.num_blocks}"
                )
