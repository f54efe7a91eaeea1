"""Sources from which a replica reads the decision of a request."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from cluster.config import DecisionConfig
from cluster.domain.decision import Granularity, RoutingDecision, SiteWeights
from cluster.domain.ids import DecisionId
from cluster.errors import DecisionRejected, StoreUnavailable
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import Origin
from router_service.decision_store.keys import decision_key
from router_service.reader import DecisionReader
from tests.support.manual_clock import ManualClock

MakeDecision = Callable[..., RoutingDecision]


OPEN: dict[str, Any] = {"granularity": Granularity.PROMPT, "site_weights": None}
"""Fields of a decision that prefill has still to complete."""


async def read(reader: DecisionReader, carried: bytes) -> tuple[RoutingDecision, Origin]:
    stored = await reader.read(carried)
    return stored.decision, stored.origin


@pytest.fixture
def reader(
    flaky_store: Any, codec: DecisionCodec, clock: ManualClock, config: DecisionConfig
) -> DecisionReader:
    return DecisionReader(store=flaky_store, codec=codec, clock=clock, config=config, leeway_s=30)


@pytest.mark.parametrize("trouble", ["none", "away", "gone", "tampered"])
async def test_a_complete_copy_is_used_at_once(
    reader: DecisionReader,
    flaky_store: Any,
    codec: DecisionCodec,
    make_decision: MakeDecision,
    trouble: str,
) -> None:
    signed = codec.sign(make_decision())
    if trouble == "none":
        await flaky_store.put(signed, 60)
    if trouble == "tampered":
        flaky_store.write_raw(decision_key(signed.decision.tenant, signed.decision.id), b"?", 60)
    flaky_store.away = trouble == "away"
    for _ in range(2):
        assert await read(reader, signed.encoded) == (signed.decision, Origin.CARRIED)
    counters = flaky_store.counters
    assert (counters.hits, counters.misses, counters.tampered, counters.unavailable) == (0,) * 4


async def test_for_an_open_decision_the_store_first_and_then_this_process(
    reader: DecisionReader, flaky_store: Any, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    carried = codec.sign(make_decision(**OPEN))
    complete = codec.sign(make_decision(granularity=Granularity.PROMPT))
    await flaky_store.put(complete, 60)
    assert await read(reader, carried.encoded) == (complete.decision, Origin.STORE)
    assert await read(reader, carried.encoded) == (complete.decision, Origin.LOCAL)
    assert flaky_store.counters.hits == 1


async def test_the_stored_decision_is_preferred_to_the_carried_one(
    reader: DecisionReader, flaky_store: Any, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    carried = codec.sign(make_decision(**OPEN))
    stored = codec.sign(make_decision(**OPEN, mixture=()))
    await flaky_store.put(stored, 60)
    decision, _ = await read(reader, carried.encoded)
    assert decision == stored.decision


@pytest.mark.parametrize("trouble", ["away", "gone", "tampered"])
async def test_the_carried_copy_where_the_store_has_none_to_give(
    reader: DecisionReader,
    flaky_store: Any,
    codec: DecisionCodec,
    make_decision: MakeDecision,
    trouble: str,
) -> None:
    signed = codec.sign(make_decision(**OPEN))
    if trouble == "away":
        flaky_store.away = True
    if trouble == "tampered":
        flaky_store.write_raw(decision_key(signed.decision.tenant, signed.decision.id), b"?", 60)
    assert await read(reader, signed.encoded) == (signed.decision, Origin.CARRIED)
    again = Origin.LOCAL if trouble == "away" else Origin.CARRIED
    assert await read(reader, signed.encoded) == (signed.decision, again)
    assert flaky_store.counters.tampered == 2 * (trouble == "tampered")


@pytest.mark.parametrize("away", [False, True])
async def test_an_unsigned_copy_is_refused_whatever_the_store_does(
    reader: DecisionReader,
    flaky_store: Any,
    codec: DecisionCodec,
    make_decision: MakeDecision,
    away: bool,
) -> None:
    signed = codec.sign(make_decision())
    await flaky_store.put(signed, 60)
    flaky_store.away = away
    with pytest.raises(DecisionRejected):
        await read(reader, signed.encoded.replace(b"0.6225", b"0.9225"))


async def test_a_signed_copy_under_a_made_up_id_is_refused(
    reader: DecisionReader, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    liar = make_decision(id=DecisionId("dec_" + "0" * 32))
    with pytest.raises(DecisionRejected):
        await read(reader, codec.encode_signed(liar))


async def test_a_queued_request_may_outlive_its_decision_a_little(
    reader: DecisionReader, codec: DecisionCodec, clock: ManualClock, make_decision: MakeDecision
) -> None:
    signed = codec.sign(make_decision())
    clock.advance(60 + 29)
    assert await read(reader, signed.encoded) == (signed.decision, Origin.CARRIED)
    clock.advance(1)
    with pytest.raises(DecisionRejected):
        await read(reader, signed.encoded)


PROMPT_WEIGHTS = SiteWeights(("model.layers.0.mlp.up_proj",), ((0.0,),))


async def test_what_prefill_completed_is_found_by_this_process_and_by_others(
    reader: DecisionReader,
    flaky_store: Any,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
    make_decision: MakeDecision,
) -> None:
    open_decision = make_decision(granularity=Granularity.PROMPT, site_weights=None)
    carried = codec.sign(open_decision)
    await flaky_store.put(carried, 60)
    other = DecisionReader(store=flaky_store, codec=codec, clock=clock, config=config, leeway_s=30)
    for one in (reader, other):
        assert (await read(one, carried.encoded))[0] == open_decision
    complete = dataclasses.replace(open_decision, site_weights=PROMPT_WEIGHTS)
    await reader.complete(complete)
    assert await read(reader, carried.encoded) == (complete, Origin.LOCAL)
    # The other process has the open one in its cache; it asks the store again.
    assert await read(other, carried.encoded) == (complete, Origin.STORE)
    assert await read(other, carried.encoded) == (complete, Origin.LOCAL)


async def test_what_prefill_completed_is_kept_here_when_the_store_is_away(
    reader: DecisionReader, flaky_store: Any, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    open_decision = make_decision(granularity=Granularity.PROMPT, site_weights=None)
    carried = codec.sign(open_decision)
    flaky_store.away = True
    complete = dataclasses.replace(open_decision, site_weights=PROMPT_WEIGHTS)
    with pytest.raises(StoreUnavailable):
        await reader.complete(complete)
    assert await read(reader, carried.encoded) == (complete, Origin.LOCAL)


async def test_an_expired_decision_is_not_written_back(
    reader: DecisionReader, flaky_store: Any, clock: ManualClock, make_decision: MakeDecision
) -> None:
    decision = make_decision(granularity=Granularity.PROMPT, site_weights=PROMPT_WEIGHTS)
    clock.advance(decision.expires_at - clock.wall())
    await reader.complete(decision)
    assert flaky_store.counters.stored == 0
