"""Folders on disk, through catalog, loader and manager, into the real bank and out of it again."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.format.peft_config import module_ranks
from cluster.adapters.loader import load_adapter
from cluster.adapters.residency.manager import AdapterManager
from cluster.config import AdapterConfig
from cluster.errors import AdapterError
from kernels.lora.bank import AdapterBank
from kernels.lora.sites import FusedSite
from tests.support.manual_clock import ManualClock


@pytest.fixture
async def rig(tmp_path, write_adapter, base):
    for seed, alias in enumerate(("one", "two", "three")):
        write_adapter(tmp_path / alias, seed=seed, rank=2 + seed)
    write_adapter(tmp_path / "foreign", notes={"base_digest": "another"})
    sites = [
        FusedSite(path, d_in, ((path, d_out),)) for path, (d_out, d_in) in base.modules.items()
    ]
    bank = AdapterBank(sites, 2, 8)
    config = AdapterConfig(slots=2, max_rank=8)
    catalog = AdapterCatalog.scan(tmp_path)
    with ThreadPoolExecutor(2) as executor:
        manager = AdapterManager(
            config,
            catalog,
            bank,
            lambda entry: bank.pack(
                load_adapter(Path(entry.path), base, config, entry.key.digest).tensors
            ),
            ManualClock(),
            executor,
        )
        yield manager, catalog, bank
        await manager.close()
        manager.check_integrity()
        bank.check_integrity()


async def test_the_bank_holds_what_is_leased_and_is_cleared_behind_it(rig):
    manager, catalog, bank = rig
    digests = {alias: e.key.digest for alias, e in catalog.entries.items()}
    lease = await manager.acquire([digests["two"], digests["one"]])
    assert [bank.rank(slot) for slot in lease.slots] == [3, 2]
    assert manager.bytes_used == sum(bank.nbytes(slot) for slot in lease.slots)
    manager.release(lease)
    third = await manager.acquire([digests["three"]])
    assert bank.rank(third.slots[0]) == 4
    assert bank.occupied == {0, 1}
    manager.release(third)


async def test_device_bytes_are_promised_exactly(rig):
    manager, catalog, bank = rig
    for alias in ("one", "two", "three"):
        entry = catalog.entries[alias]
        assert manager.prefetch(entry.key.digest)
        lease = await manager.acquire([entry.key.digest])
        (resident,) = [r for r in manager.resident() if r.digest == entry.key.digest]
        promised = bank.required_nbytes(module_ranks(entry.manifest))
        assert resident.nbytes == bank.nbytes(lease.slots[0]) == promised
        manager.release(lease)


async def test_an_adapter_for_another_base_is_refused_and_leaves_nothing(rig):
    manager, catalog, bank = rig
    with pytest.raises(AdapterError, match="trained on base another"):
        await manager.acquire([catalog.entries["foreign"].key.digest])
    assert bank.occupied == frozenset()
    assert manager.bytes_used == 0
