"""One suite over every decision store."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import redis

from cluster.config import DecisionConfig
from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import TenantId
from cluster.errors import ConfigError
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.decision_store import (
    DecisionExpired,
    DecisionForeign,
    DecisionStore,
    DecisionTampered,
)
from router_service.decision_store.keys import decision_key, is_decision_id
from router_service.decision_store.memory import MemoryDecisionStore
from router_service.decision_store.redis_store import RedisDecisionStore
from tests.support.manual_clock import ManualClock

MakeDecision = Callable[..., RoutingDecision]


@dataclass
class Backend:
    """A store, and a way around it."""

    store: DecisionStore
    write_raw: Callable[[str, bytes], None]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def backend(
    request: pytest.FixtureRequest,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
) -> AsyncIterator[Backend]:
    if request.param == "memory":
        memory = MemoryDecisionStore(codec, clock)
        yield Backend(memory, lambda key, document: memory.write_raw(key, document, 60))
        memory.check_integrity()
        return
    url = request.getfixturevalue("redis_url")
    store = RedisDecisionStore(url, codec, clock, config)
    with redis.Redis.from_url(url) as client:
        yield Backend(store, lambda key, document: client.set(key, document, ex=60))
    await store.close()


def _counts(store: DecisionStore) -> dict[str, int]:
    names = ("hits", "misses", "tampered", "expired", "foreign", "unavailable", "stored")
    counts = {name: getattr(store.counters, name) for name in names}
    return {name: count for name, count in counts.items() if count}


async def test_what_is_put_is_got(
    backend: Backend, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    signed = codec.sign(make_decision())
    await backend.store.put(signed, 60)
    assert await backend.store.get(signed.decision.tenant, signed.decision.id) == signed
    assert _counts(backend.store) == {"stored": 1, "hits": 1}


async def test_nothing_is_a_miss(backend: Backend, make_decision: MakeDecision) -> None:
    decision = make_decision()
    assert await backend.store.get(decision.tenant, decision.id) is None
    assert _counts(backend.store) == {"misses": 1}


async def test_another_tenant_does_not_see_it(
    backend: Backend, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    signed = codec.sign(make_decision())
    await backend.store.put(signed, 60)
    assert await backend.store.get(TenantId("globex"), signed.decision.id) is None


async def test_a_put_replaces(
    backend: Backend, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    first, second = (codec.sign(make_decision(scores=())), codec.sign(make_decision(mixture=())))
    await backend.store.put(first, 60)
    await backend.store.put(second, 60)
    assert await backend.store.get(first.decision.tenant, first.decision.id) == second


async def test_an_expired_decision_is_never_returned(
    backend: Backend, codec: DecisionCodec, clock: ManualClock, make_decision: MakeDecision
) -> None:
    signed = codec.sign(make_decision())
    await backend.store.put(signed, 3600)  # kept for longer than it is valid
    clock.advance(60)
    with pytest.raises(DecisionExpired):
        await backend.store.get(signed.decision.tenant, signed.decision.id)
    assert _counts(backend.store) == {"stored": 1, "expired": 1}


@pytest.mark.parametrize("document", [b"", b"null", b'{"v":1}', b"\xff\xfe", b"[" * 2000])
async def test_junk_in_its_place_is_tampering(
    backend: Backend, make_decision: MakeDecision, document: bytes
) -> None:
    decision = make_decision()
    backend.write_raw(decision_key(decision.tenant, decision.id), document)
    with pytest.raises(DecisionTampered):
        await backend.store.get(decision.tenant, decision.id)
    counters = backend.store.counters
    assert (counters.tampered, counters.expired, counters.foreign) == (1, 0, 0)


async def test_a_changed_weight_is_tampering(
    backend: Backend, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    signed = codec.sign(make_decision())
    forged = signed.encoded.replace(b"0.6225", b"0.9225")
    assert forged != signed.encoded
    backend.write_raw(decision_key(signed.decision.tenant, signed.decision.id), forged)
    with pytest.raises(DecisionTampered):
        await backend.store.get(signed.decision.tenant, signed.decision.id)


async def test_another_tenants_decision_copied_over_is_a_replay(
    backend: Backend, codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    mine = make_decision()
    theirs = codec.encode_signed(make_decision(tenant=TenantId("globex")))
    backend.write_raw(decision_key(mine.tenant, mine.id), theirs)
    with pytest.raises(DecisionForeign):
        await backend.store.get(mine.tenant, mine.id)
    assert _counts(backend.store) == {"foreign": 1}


@pytest.mark.parametrize("ttl_s", [0, -1])
async def test_a_ttl_must_be_positive(
    backend: Backend, codec: DecisionCodec, make_decision: MakeDecision, ttl_s: float
) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        await backend.store.put(codec.sign(make_decision()), ttl_s)


async def test_ping(backend: Backend) -> None:
    await backend.store.ping()


async def test_memory_forgets_after_the_ttl_and_beyond_its_size(
    codec: DecisionCodec, clock: ManualClock, make_decision: MakeDecision
) -> None:
    store = MemoryDecisionStore(codec, clock, max_entries=2)
    signed = [codec.sign(make_decision(prompt_digest=str(n))) for n in range(3)]
    for one in signed:
        await store.put(one, 5)
        store.check_integrity()
    found = [await store.get(one.decision.tenant, one.decision.id) for one in signed]
    assert found == [None, *signed[1:]]
    clock.advance(5)
    assert await store.get(signed[2].decision.tenant, signed[2].decision.id) is None


@pytest.mark.redis
async def test_redis_holds_it_under_the_documented_key_with_a_ttl_and_without_the_prompt(
    redis_url: str,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
    make_decision: MakeDecision,
) -> None:
    store = RedisDecisionStore(redis_url, codec, clock, config)
    prompt = "a very private prompt"
    digest = codec.prompt_digest(TenantId("acme"), prompt)
    signed = codec.sign(make_decision(prompt_digest=digest))
    await store.put(signed, 60)
    await store.close()
    with redis.Redis.from_url(redis_url) as client:
        key = f"braid:v1:{{acme}}:decision:{signed.decision.id}"
        assert client.keys() == [key.encode()]
        assert 0 < client.pttl(key) <= 60_000
        assert b"private" not in client.get(key)


@pytest.mark.redis
async def test_a_key_of_another_type_is_tampering_and_is_replaced(
    redis_url: str,
    codec: DecisionCodec,
    clock: ManualClock,
    config: DecisionConfig,
    make_decision: MakeDecision,
) -> None:
    store = RedisDecisionStore(redis_url, codec, clock, config)
    signed = codec.sign(make_decision())
    tenant, name = signed.decision.tenant, signed.decision.id
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(decision_key(tenant, name), "x")
    with pytest.raises(DecisionTampered):
        await store.get(tenant, name)
    await store.put(signed, 60)
    assert await store.get(tenant, name) == signed
    await store.close()


def test_a_wrong_url_is_the_operators_error(
    codec: DecisionCodec, clock: ManualClock, config: DecisionConfig
) -> None:
    with pytest.raises(ConfigError, match="redis_url"):
        RedisDecisionStore("http://example.org", codec, clock, config)


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("dec_" + "0a" * 16, True),
        ("dec_" + "0A" * 16, False),
        ("dec_" + "0a" * 15, False),
        ("dec_" + "0a" * 16 + "\n", False),
        ("}:decision:x", False),
        ("", False),
    ],
)
def test_the_form_of_an_id(text: str, is_id: bool) -> None:
    assert is_decision_id(text) is is_id
