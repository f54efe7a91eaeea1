"""Signed documents: what goes in comes out, and nothing else does."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.decision import (
    CandidateScore,
    DecisionSource,
    Granularity,
    RoutingDecision,
    SiteWeights,
)
from cluster.domain.ids import AdapterDigest, DecisionId, TenantId
from cluster.errors import ConfigError, DecisionRejected
from router_service.decision_store.codec import MAX_ENCODED_BYTES, DecisionCodec
from router_service.decision_store.decision_store import (
    DecisionExpired,
    DecisionForeign,
    DecisionTampered,
)
from router_service.decision_store.keys import decision_id

MakeDecision = Callable[..., RoutingDecision]

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_number = st.floats(allow_nan=False, allow_infinity=False)
_keys = st.builds(AdapterKey, _text.map(TenantId), _text, _text.map(AdapterDigest))


@st.composite
def _site_weights(draw: st.DrawFn) -> SiteWeights:
    sites = draw(st.lists(_text, max_size=3))
    rows = st.lists(_number, min_size=len(sites), max_size=len(sites)).map(tuple)
    return SiteWeights(tuple(sites), tuple(draw(st.lists(rows, max_size=3))))


_decisions = st.builds(
    RoutingDecision,
    id=_text.map(DecisionId),
    tenant=_text.map(TenantId),
    router=_text,
    router_version=_text,
    granularity=st.sampled_from(Granularity),
    mixture=st.lists(st.builds(WeightedAdapter, _keys, _number), max_size=4).map(tuple),
    source=st.sampled_from(DecisionSource),
    candidates_digest=_text,
    prompt_digest=_text,
    created_at=_number,
    expires_at=_number,
    site_weights=st.none() | _site_weights(),
    scores=st.lists(st.builds(CandidateScore, _text, _number, kept=st.booleans()), max_size=3).map(
        tuple
    ),
)


def _open(codec: DecisionCodec, encoded: bytes, decision: RoutingDecision, now: float) -> Any:
    return codec.open(encoded, tenant=decision.tenant, decision_id=decision.id, now=now)


@given(decision=_decisions)
def test_round_trip(codec: DecisionCodec, decision: RoutingDecision) -> None:
    encoded = codec.encode_signed(decision)
    assert codec.decode_signed(encoded) == decision
    assert codec.encode_signed(codec.decode_signed(encoded)) == encoded


@given(decision=_decisions, other=_decisions, data=st.data())
def test_any_single_field_exchanged_under_the_old_signature_is_detected(
    codec: DecisionCodec, decision: RoutingDecision, other: RoutingDecision, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from([field.name for field in fields(RoutingDecision)]))
    forged = replace(decision, **{name: getattr(other, name)})
    document = json.loads(codec.encode_signed(decision))
    content = json.loads(codec.encode_signed(forged))["decision"]
    if content == document["decision"]:
        return
    document["decision"] = content
    encoded = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(DecisionTampered):
        codec.decode_signed(encoded)


@given(data=st.data())
def test_any_changed_byte_is_detected(
    codec: DecisionCodec, make_decision: MakeDecision, data: st.DataObject
) -> None:
    decision = make_decision()
    encoded = bytearray(codec.encode_signed(decision))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecisionTampered):
        codec.decode_signed(bytes(encoded))


@given(junk=st.binary(max_size=64))
def test_junk_is_tampering_and_not_a_crash(codec: DecisionCodec, junk: bytes) -> None:
    with pytest.raises(DecisionTampered):
        codec.decode_signed(junk)


def test_another_clusters_signature_is_refused(
    codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    foreign = DecisionCodec(b"another cluster's signing key").encode_signed(make_decision())
    with pytest.raises(DecisionTampered, match="signature"):
        codec.decode_signed(foreign)


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": TenantId("globex")},
        {"router": "other"},
        {"router_version": "v2"},
        {"candidates_digest": "c2"},
        {"prompt_digest": "p2"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_true_decision_in_anothers_place_is_a_replay(
    codec: DecisionCodec, make_decision: MakeDecision, changes: dict[str, Any]
) -> None:
    asked = make_decision()
    other = codec.encode_signed(make_decision(**changes))
    with pytest.raises(DecisionForeign):
        _open(codec, other, asked, asked.created_at)


def test_an_id_that_does_not_follow_from_the_fields_is_foreign(
    codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    liar = make_decision(id=DecisionId("dec_" + "0" * 32))
    with pytest.raises(DecisionForeign):
        _open(codec, codec.encode_signed(liar), liar, liar.created_at)


def test_a_decision_serves_until_its_expiry(
    codec: DecisionCodec, make_decision: MakeDecision
) -> None:
    decision = make_decision()
    encoded = codec.encode_signed(decision)
    assert _open(codec, encoded, decision, decision.expires_at - 0.001).decision == decision
    with pytest.raises(DecisionExpired):
        _open(codec, encoded, decision, decision.expires_at)
    late = codec.open(
        encoded,
        tenant=decision.tenant,
        decision_id=decision.id,
        now=decision.expires_at + 5,
        leeway_s=10,
    )
    assert late.decision == decision


def test_every_rejection_is_one_error_to_the_caller() -> None:
    for error in (DecisionTampered, DecisionExpired, DecisionForeign):
        assert issubclass(error, DecisionRejected)
        assert error.code == DecisionRejected.code


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_not_signed(
    codec: DecisionCodec, make_decision: MakeDecision, adapter_key: Any, number: float
) -> None:
    with pytest.raises(ValueError, match=r"nan|inf"):
        codec.encode_signed(make_decision(mixture=(WeightedAdapter(adapter_key("sql"), number),)))


def test_an_oversized_document_is_not_parsed(codec: DecisionCodec) -> None:
    with pytest.raises(DecisionTampered, match="limit"):
        codec.decode_signed(b"x" * (MAX_ENCODED_BYTES + 1))


def test_a_short_signing_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 bytes"):
        DecisionCodec(b"short")


def test_prompt_digests_depend_on_text_tenant_and_key(codec: DecisionCodec) -> None:
    acme, globex = TenantId("acme"), TenantId("globex")
    digests = {
        codec.prompt_digest(acme, "hello"),
        codec.prompt_digest(acme, "hello "),
        codec.prompt_digest(globex, "hello"),
        DecisionCodec(b"another cluster's signing key").prompt_digest(acme, "hello"),
    }
    assert len(digests) == 4
    assert codec.prompt_digest(acme, "\ud800")  # a lone surrogate has a digest too


def test_ids_do_not_collide_by_joining() -> None:
    tenant = TenantId("t")
    assert decision_id(tenant, "ab", "c", "", "") != decision_id(tenant, "a", "bc", "", "")
