"""Names of decisions and of their Redis keys.

Layout (``v1`` is the layout's version; the braces are a cluster hash tag, so all keys of a tenant
share a slot and no script can reach another tenant's)::

    braid:v1:{<tenant>}:decision:<decision id>   string, the signed JSON; always with a TTL

The id is derived from what the decision was asked for, so one key serves both the look-up before
a prompt is routed and the look-up by id. It holds no prompt text: the prompt enters as a keyed
digest (``DecisionCodec.prompt_digest``).
"""

import re

from cluster.domain.decision import tagged_digest
from cluster.domain.ids import DecisionId, TenantId

_DECISION_ID = re.compile(r"dec_[0-9a-f]{32}")


def decision_id(
    tenant: TenantId,
    router: str,
    router_version: str,
    candidates_digest: str,
    prompt_digest: str,
) -> DecisionId:
    """Return ``dec_`` + 32 hex digits over everything the decision depends on."""
    digest = tagged_digest(
        ("tenant", tenant.encode()),
        ("router", router.encode()),
        ("router-version", router_version.encode()),
        ("candidates", candidates_digest.encode()),
        ("prompt", prompt_digest.encode()),
    )
    return DecisionId(f"dec_{digest[:32]}")


def is_decision_id(text: str) -> bool:
    """Return whether ``text`` has the form of an id; nothing else becomes part of a key."""
    return _DECISION_ID.fullmatch(text) is not None


def decision_key(tenant: TenantId, decision: DecisionId) -> str:
    """Return the Redis key of one decision."""
    return f"braid:v1:{{{tenant}}}:decision:{decision}"
