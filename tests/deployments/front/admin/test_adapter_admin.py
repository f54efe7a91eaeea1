"""An addition succeeds whole or leaves nothing, whatever the replicas say."""

import asyncio
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cluster.adapters.catalog import AdapterCatalog
from cluster.adapters.format.chat_template import digest_of
from cluster.adapters.registry.memory_store import MemoryRegistryStore
from cluster.adapters.registry.records import AddOutcome, ReplicaAnswer, VersionState
from cluster.adapters.registry.registry import AdapterRegistry
from cluster.adapters.sources import FolderSource
from cluster.adapters.validation.base_shapes import BaseShapes
from cluster.config import AppConfig
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import (
    AdapterCapacity,
    AdapterConflict,
    AdapterLoadFailed,
    AdapterSourceRefused,
    AdapterWrongBase,
)
from deployments.adapter_follower import AdapterFollower, content_store
from deployments.front.admin.adapter_admin import AdapterAdmin, NameChange
from deployments.front.admin.adapter_wire import adapter_card
from tests.support.manual_clock import ManualClock

MODULE = "model.layers.0.self_attn.q_proj"
BASE = BaseShapes("base", {MODULE: (8, 8)})
ADMIN = TenantId("admin")


class FakeCluster:
    """Stands in for replicas that answer as the test says."""

    def __init__(self) -> None:
        self.answers: tuple[ReplicaAnswer, ...] = (
            ReplicaAnswer("r0", AddOutcome.LOADED),
            ReplicaAnswer("r1", AddOutcome.CHECKED),
        )
        self.prepared: list[AdapterDigest] = []
        self.entered = asyncio.Event()
        self.both = asyncio.Event()
        self.gate: asyncio.Event | None = None

    async def base(self) -> BaseShapes:
        return BASE

    async def prepare_adapter(
        self, digest: AdapterDigest, timeout_s: float
    ) -> tuple[ReplicaAnswer, ...]:
        self.prepared.append(digest)
        self.entered.set()
        if len(self.prepared) == 2:
            self.both.set()
        if self.gate is not None:
            await self.gate.wait()
        return self.answers


class Bench:
    def __init__(self, folder: Path, **adapters: object) -> None:
        self.folder = folder
        self.cluster = FakeCluster()
        clock = ManualClock()
        epochs = itertools.count()
        self.config = AppConfig.model_validate(
            {"adapters": {"store_dir": folder / "store", "slots": 3, **adapters}}
        )
        store = MemoryRegistryStore(lambda: f"epoch-{next(epochs)}")
        self.registry = AdapterRegistry(store, clock)
        self.adapters = AdapterFollower(self.registry, AdapterCatalog(), self.config, clock)
        self.admin = AdapterAdmin(
            adapters=self.adapters, config=self.config.adapters, replicas=self.cluster, clock=clock
        )

    def source(self, value: float) -> FolderSource:
        name = f"adapter-{value}"
        path = self.folder / "sources" / name
        path.mkdir(parents=True, exist_ok=True)
        stem = f"base_model.model.{MODULE}"
        tensors = {
            f"{stem}.lora_A.weight": torch.full((2, 8), float(value)),
            f"{stem}.lora_B.weight": torch.full((8, 2), float(value)),
        }
        save_file(tensors, path / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        (path / "adapter_config.json").write_text(json.dumps(config))
        return FolderSource(self.folder / "sources", name)

    def served(self) -> dict[str, AdapterDigest]:
        return {name.id: name.digest for name in self.registry.view.names.values()}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    view = await made.registry.sync()
    view.check_integrity()
    assert view.in_state(VersionState.STAGED) == ()


async def test_a_name_points_to_what_replicas_can_serve(bench: Bench) -> None:
    name = await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    assert bench.cluster.prepared == [name.digest]
    assert bench.served() == {"shared/one": name.digest}
    version = bench.registry.view.of_name(name)
    assert bench.adapters.path_of(version).startswith(str(bench.folder / "store"))
    assert version.source == "folder adapter-1"


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (
            (ReplicaAnswer("r0", AddOutcome.LOADED), ReplicaAnswer("r1", AddOutcome.SILENT)),
            AdapterLoadFailed,
        ),
        (
            (
                ReplicaAnswer("r0", AddOutcome.LOADED),
                ReplicaAnswer("r1", AddOutcome.REFUSED, "adapter_wrong_base", "too wide"),
            ),
            AdapterWrongBase,
        ),
        ((ReplicaAnswer("r0", AddOutcome.REFUSED, "model_not_found", "who?"),), AdapterLoadFailed),
        ((), AdapterLoadFailed),
    ],
)
async def test_what_replicas_cannot_serve_is_rolled_back(
    bench: Bench, answers: tuple[ReplicaAnswer, ...], error: type[Exception]
) -> None:
    before = await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    bench.cluster.answers = answers
    with pytest.raises(error):
        await bench.admin.add(bench.source(2), NameChange("one", expected=None), ADMIN)
    assert bench.served() == {"shared/one": before.digest}
    assert len(bench.registry.view.in_state(VersionState.RETIRED)) == 1


async def test_fewer_answers_are_enough_where_the_operator_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, acknowledgements=1)
    bench.cluster.answers = (
        ReplicaAnswer("r0", AddOutcome.SILENT),
        ReplicaAnswer("r1", AddOutcome.LOADED),
    )
    await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    assert list(bench.served()) == ["shared/one"]


async def test_progress_is_visible_and_a_client_that_leaves_leaves_nothing(bench: Bench) -> None:
    bench.cluster.gate = asyncio.Event()
    adding = asyncio.create_task(bench.admin.add(bench.source(1), NameChange("one"), ADMIN))
    await bench.cluster.entered.wait()
    (staged,) = bench.registry.view.in_state(VersionState.STAGED)
    assert staged.wanted_by == "shared/one"
    assert bench.served() == {}
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert bench.registry.view.version(staged.digest).state is VersionState.RETIRED


async def test_a_taken_name_is_refused_before_anything_is_fetched(bench: Bench) -> None:
    await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    stored = len(list((bench.folder / "store").glob("*/*")))
    with pytest.raises(AdapterConflict):
        await bench.admin.add(bench.source(2), NameChange("one"), ADMIN)
    assert len(list((bench.folder / "store").glob("*/*"))) == stored


async def test_who_loses_a_race_in_the_end_leaves_nothing(bench: Bench) -> None:
    bench.cluster.gate = asyncio.Event()
    adding = [
        asyncio.create_task(bench.admin.add(bench.source(n), NameChange("one"), ADMIN))
        for n in (1, 2)
    ]
    await bench.cluster.both.wait()
    bench.cluster.gate.set()
    outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AdapterConflict", "Name"]
    assert len(bench.served()) == 1


async def test_pins_leave_a_slot_free(bench: Bench) -> None:
    for number in (1, 2, 3):
        await bench.admin.add(bench.source(number), NameChange(f"n{number}"), ADMIN)
    for alias in ("n1", "n2", "n2"):
        await bench.admin.pin(SHARED_OWNER, alias, True)
    with pytest.raises(AdapterCapacity):
        await bench.admin.pin(SHARED_OWNER, "n3", True)
    await bench.admin.pin(SHARED_OWNER, "n1", False)
    await bench.admin.pin(SHARED_OWNER, "n3", True)


async def test_removal_says_what_is_not_free_yet(bench: Bench) -> None:
    name = await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    gone = await bench.admin.remove(SHARED_OWNER, "one", expected=None, force=False, wait_s=0)
    assert gone == {name.digest: False}


async def test_removal_of_one_of_two_names_waits_for_nothing(bench: Bench) -> None:
    name = await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    await bench.admin.switch(name.digest, NameChange("two"), ADMIN)
    assert await bench.admin.remove(SHARED_OWNER, "one", expected=None, force=False) == {}


async def test_nothing_can_be_added_without_a_store(tmp_path: Path) -> None:
    bench = Bench(tmp_path, store_dir=None)
    with pytest.raises(AdapterSourceRefused, match="store_dir"):
        await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)


async def test_no_name_is_pointed_to_what_is_not_stored_any_more(bench: Bench) -> None:
    name = await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    await bench.admin.switch(name.digest, NameChange("two"), ADMIN)
    shutil.rmtree(next((bench.folder / "store").glob(f"*/{name.digest}")))
    with pytest.raises(AdapterLoadFailed, match="its files"):
        await bench.admin.switch(name.digest, NameChange("three"), ADMIN)
    assert set(bench.served()) == {"shared/one", "shared/two"}


async def test_verify_reads_the_bytes(bench: Bench) -> None:
    name = await bench.admin.add(bench.source(1), NameChange("one"), ADMIN)
    await bench.admin.verify(name.digest)
    weights = next((bench.folder / "store").glob("*/*/adapter_model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(Exception, match=name.digest):
        await bench.admin.verify(name.digest)


def _rewrite(folder: Path, **config: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


async def test_one_addition_may_say_what_must_agree_with_the_base(bench: Bench) -> None:
    source = bench.source(1)
    (bench.folder / "sources" / "adapter-1" / "manifest.json").write_text('{"base_digest": "b2"}')
    with pytest.raises(AdapterWrongBase, match="--base-check shapes"):
        await bench.admin.add(source, NameChange("one"), ADMIN)
    name = await bench.admin.add(source, NameChange("one"), ADMIN, "shapes")
    # Replicas read it from here, also after the registry was lost.
    assert bench.adapters.by_digest(name.digest).base_check == "shapes"
    assert bench.admin.config.base_check == "digest"
    store = content_store(bench.config.adapters, BASE)
    assert store is not None
    stored = store.get(name.digest)
    assert stored is not None
    assert stored.base_check == "shapes"
    with pytest.raises(AdapterWrongBase):
        await bench.admin.add(source, NameChange("two"), ADMIN)


async def test_notes_are_of_the_latest_addition(bench: Bench) -> None:
    source = bench.source(1)
    folder = bench.folder / "sources" / "adapter-1"
    _rewrite(folder, some_new_default=16)
    name = await bench.admin.add(source, NameChange("one"), ADMIN)
    (note,) = adapter_card(bench.registry.view, name, ())["notes"]
    assert note == "adapter_config.json: not known and without effect: some_new_default"
    _rewrite(folder, some_new_default=None)
    other = await bench.admin.add(source, NameChange("two"), ADMIN)
    assert other.digest == name.digest
    assert adapter_card(bench.registry.view, other, ())["notes"] == []


async def test_an_own_chat_template_is_said_unless_it_is_the_base_s(tmp_path: Path) -> None:
    for own, noted in (("{{ messages }}", True), ("the base's", False)):
        bench = Bench(tmp_path / str(noted))
        bench.admin = AdapterAdmin(
            adapters=bench.adapters,
            config=bench.config.adapters,
            replicas=bench.cluster,
            clock=ManualClock(),
            base_template=digest_of("the base's"),
        )
        source = bench.source(1)
        folder = bench.folder / "sources" / "adapter-1"
        (folder / "chat_template.jinja").write_text(own)
        name = await bench.admin.add(source, NameChange("one"), ADMIN)
        card = adapter_card(bench.registry.view, name, ())
        assert card["chat_template"] == "own"
        assert [note.startswith("chat template:") for note in card["notes"]] == [True] * noted
