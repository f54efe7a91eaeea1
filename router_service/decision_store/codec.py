"""Encodes decisions as signed JSON.

The document is ``{"v": 1, "decision": {...}, "signature": "<64 hex digits>"}``. The signature is
HMAC-SHA256 over exactly the bytes of the ``decision`` value, checked before they are parsed, so
every field is covered: id, tenant, router, version, candidates, prompt digest, mixture, weights,
site weights, scores, source and both times.
"""

import hashlib
import hmac
import math
from typing import Final

import msgspec

from cluster.domain.decision import RoutingDecision
from cluster.domain.ids import DecisionId, TenantId
from cluster.errors import ConfigError
from router_service.decision_store.decision_store import (
    DecisionExpired,
    DecisionForeign,
    DecisionTampered,
    Origin,
    StoredDecision,
)
from router_service.decision_store.keys import decision_id as derive_id

FORMAT: Final = 1
MIN_KEY_BYTES: Final = 16
MAX_ENCODED_BYTES: Final = 4 * 2**20


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    v: int
    decision: msgspec.Raw
    signature: str


class DecisionCodec:
    """Encodes, signs, verifies and decodes with the cluster's signing key."""

    def __init__(self, signing_key: bytes) -> None:
        if len(signing_key) < MIN_KEY_BYTES:
            raise ConfigError(
                f"signing key has {len(signing_key)} bytes; at least {MIN_KEY_BYTES} are needed"
            )
        self._signature_key = _derive(signing_key, b"braid decision signature")
        self._prompt_key = _derive(signing_key, b"braid prompt digest")
        self._encoder = msgspec.json.Encoder(order="deterministic")
        self._decoder = msgspec.json.Decoder(RoutingDecision)
        self._envelopes = msgspec.json.Decoder(_Envelope)

    def prompt_digest(self, tenant: TenantId, text: str) -> str:
        """Return a prompt's keyed digest (hex): no reader of the store can try out prompts."""
        message = tenant.encode() + b"\0" + text.encode("utf-8", "surrogatepass")
        return hmac.new(self._prompt_key, message, hashlib.sha256).hexdigest()

    def sign(self, decision: RoutingDecision) -> StoredDecision:
        """Sign a decision.

        Raises:
            ValueError: a number in it is not finite.
        """
        return StoredDecision(decision, self.encode_signed(decision))

    def encode_signed(self, decision: RoutingDecision) -> bytes:
        """Return canonical JSON with its signature; equal decisions give equal bytes."""
        _require_finite(decision)
        payload = self._encoder.encode(decision)
        envelope = _Envelope(FORMAT, msgspec.Raw(payload), self._signature(payload))
        return msgspec.json.encode(envelope)

    def decode_signed(self, encoded: bytes) -> RoutingDecision:
        """Return the decision in ``encoded``, if this cluster signed it.

        Raises:
            DecisionTampered: malformed, of another format, or signed by another key.
        """
        if len(encoded) > MAX_ENCODED_BYTES:
            raise DecisionTampered(f"decision of {len(encoded)} bytes; limit {MAX_ENCODED_BYTES}")
        try:
            envelope = self._envelopes.decode(encoded)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecisionTampered(f"decision is not a signed document: {error}") from error
        if envelope.v != FORMAT:
            raise DecisionTampered(f"decision has format {envelope.v}; this is format {FORMAT}")
        payload = bytes(envelope.decision)
        if not hmac.compare_digest(
            envelope.signature.encode("utf-8", "surrogatepass"), self._signature(payload).encode()
        ):
            raise DecisionTampered("decision's signature does not match its content")
        try:
            return self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecisionTampered(f"signed decision has unknown content: {error}") from error

    def open(
        self,
        encoded: bytes,
        *,
        tenant: TenantId,
        decision_id: DecisionId,
        now: float,
        leeway_s: float = 0.0,
    ) -> StoredDecision:
        """Decode and check that this is the decision that was asked for and still valid.

        ``now`` is wall time in seconds; ``leeway_s`` accepts a decision that much after its expiry.
        Router, version, candidates and prompt are checked through the id, which is derived again
        from the decision's own fields.

        Raises:
            DecisionTampered: see ``decode_signed``.
            DecisionForeign: a true decision of another tenant, router, candidate set or prompt.
            DecisionExpired: its time is over.
        """
        decision = self.decode_signed(encoded)
        check_identity(decision, tenant, decision_id)
        check_expiry(decision, now - leeway_s)
        return StoredDecision(decision, encoded, Origin.STORE)

    def _signature(self, payload: bytes) -> str:
        return hmac.new(self._signature_key, payload, hashlib.sha256).hexdigest()


def check_identity(decision: RoutingDecision, tenant: TenantId, decision_id: DecisionId) -> None:
    """Raise DecisionForeign unless the decision is the one named by tenant and id."""
    if decision.tenant != tenant:
        raise DecisionForeign(f"decision {decision_id} belongs to another tenant")
    derived = derive_id(
        decision.tenant,
        decision.router,
        decision.router_version,
        decision.candidates_digest,
        decision.prompt_digest,
    )
    if not decision.id == derived == decision_id:
        raise DecisionForeign(f"decision {decision.id} was found under {decision_id}")


def check_expiry(decision: RoutingDecision, now: float) -> None:
    """Raise DecisionExpired when ``now`` (wall, seconds) has reached the decision's expiry."""
    if now >= decision.expires_at:
        raise DecisionExpired(
            f"decision {decision.id} expired {now - decision.expires_at:.3f} s ago"
        )


def _derive(signing_key: bytes, purpose: bytes) -> bytes:
    return hmac.new(signing_key, purpose, hashlib.sha256).digest()


def _require_finite(decision: RoutingDecision) -> None:
    """Refuse numbers that are not finite: JSON would bring them back as null."""
    numbers = [decision.created_at, decision.expires_at]
    numbers += [term.weight for term in decision.mixture]
    numbers += [score.probability for score in decision.scores]
    if decision.site_weights is not None:
        numbers += [weight for row in decision.site_weights.weights for weight in row]
    for number in numbers:
        if not math.isfinite(number):
            raise ValueError(f"decision {decision.id} holds the number {number}")
