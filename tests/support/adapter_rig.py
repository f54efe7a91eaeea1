"""A manager with a bank and a loader whose every step the test decides."""

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

from cluster.adapters.residency.manager import AdapterManager
from cluster.domain.adapter import (
    SHARED_OWNER,
    AdapterEntry,
    AdapterKey,
    AdapterManifest,
    AdapterState,
)
from cluster.domain.ids import AdapterDigest, TenantId
from tests.support.manual_clock import ManualClock

NAMES = "abcdefgh"
READY = AdapterState.READY
NOBODY = TenantId("")


def entry(name: str) -> AdapterEntry:
    manifest = AdapterManifest(
        digest=AdapterDigest(name),
        rank=8,
        alpha=16.0,
        use_rslora=False,
        target_modules=("q_proj",),
        modules=("m.q_proj",),
        max_rank=8,
        nbytes=7,
        base_model=None,
        base_digest=None,
    )
    key = AdapterKey(SHARED_OWNER, name.upper(), AdapterDigest(name))
    return AdapterEntry(key, manifest, f"/adapters/{name}")


class Bank:
    """Remembers what each slot holds and which thread wrote it."""

    def __init__(self, required: int = 10) -> None:
        self.required = required
        self.slots: dict[int, str] = {}
        self.threads: set[int] = set()
        self.failing: dict[str, Exception] = {}
        self.sizes: dict[str, int] = {}
        self.writes: Counter[str] = Counter()

    def place(self, slot, packed):
        self.threads.add(threading.get_ident())
        name = packed.name
        if name in self.failing:
            self.slots[slot] = "garbage"
            raise self.failing[name]
        assert slot not in self.slots, "a slot must be cleared before it is given away"
        self.slots[slot] = name
        self.writes[name] += 1

    def clear(self, slot):
        self.threads.add(threading.get_ident())
        self.slots.pop(slot, None)

    def required_nbytes(self, ranks):
        assert ranks == {"m.q_proj": 8}
        return self.required

    def nbytes(self, slot):
        return self.sizes.get(self.slots[slot], 10)


class Loader:
    """Loads at once, unless a name is held back or broken."""

    def __init__(self) -> None:
        self.held: dict[str, threading.Event] = {}
        self.failing: dict[str, Exception] = {}
        self.loads: Counter[str] = Counter()
        self.now = 0
        self.most_at_once = 0
        self.lock = threading.Lock()

    def hold(self, name):
        self.held[name] = threading.Event()

    def __call__(self, adapter):
        name = adapter.key.digest
        with self.lock:
            self.loads[name] += 1
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
        try:
            if name in self.held:
                self.held[name].wait(30)
            if name in self.failing:
                raise self.failing[name]
            return SimpleNamespace(name=name, nbytes=10)
        finally:
            with self.lock:
                self.now -= 1


@dataclass
class Rig:
    manager: AdapterManager
    bank: Bank
    loader: Loader
    clock: ManualClock
    events: list

    def holds(self, lease):
        return [self.bank.slots.get(slot) for slot in lease.slots]

    def state(self):
        return {r.digest: r.state for r in self.manager.resident()}


async def until(condition):
    """Let the loop and its threads run until something is so."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - worker threads change what it reads
            await asyncio.sleep(0.001)


async def settle():
    """Let everything that can run without a thread run."""
    for _ in range(10):
        await asyncio.sleep(0)


def acquire(rig, names, tenant=NOBODY):
    return asyncio.create_task(rig.manager.acquire([AdapterDigest(n) for n in names], tenant))
