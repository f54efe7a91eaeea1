"""Keeps the content store and the registry consistent, and reports the work as metrics."""

import uuid
from dataclasses import asdict

from ray.util.metrics import Counter

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.registry.journal import JournalFile
from cluster.adapters.registry.redis_store import registry_name
from cluster.adapters.registry.store_reconciler import ReconcilerCounters, StoreReconciler
from deployments.adapter_follower import NO_BASE, content_store
from deployments.process import Process

UPLOAD_GRACE = 2.0
"""Times the longest that a fetch may take: nothing that lives waits so long."""


def store_reconciler(process: Process) -> StoreReconciler | None:
    """Return what keeps store and registry consistent, or None if there is no store to add to."""
    config, adapters = process.config, process.adapters
    store = content_store(config.adapters, NO_BASE)
    if store is None:
        return None
    limits = AdapterLimits.from_config(config.adapters)
    return StoreReconciler(
        adapters.registry,
        store,
        JournalFile(store.root, registry_name(process.base.model_id)),
        process.clock,
        lambda: uuid.uuid4().hex,
        folder=adapters.folder,
        uploads_older_s=UPLOAD_GRACE * (limits.fetch_timeout_s + limits.stall_timeout_s),
        orphans_older_s=config.adapters.orphan_grace_s,
    )


class StoreMetrics:
    """Reports what was counted since the last report, as a metric of the controller's Ray node."""

    def __init__(self) -> None:
        self._counter = Counter(
            "braid_adapter_store",
            description="Repairs that the controller made to keep store and registry consistent.",
            tag_keys=("what",),
        )
        self._reported = asdict(ReconcilerCounters())

    def report(self, counters: ReconcilerCounters) -> None:
        """Bring the metric up to date."""
        found = asdict(counters)
        for what, value in found.items():
            if value > self._reported[what]:
                self._counter.inc(value - self._reported[what], tags={"what": what})
        self._reported = found
