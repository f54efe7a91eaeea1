"""Names for identifiers, so that a function's signature says which one it takes."""

from typing import NewType

TenantId = NewType("TenantId", str)
"""A tenant's short name, ``[a-z0-9-]``."""

RequestId = NewType("RequestId", str)
"""One sequence's id, made by the front. An HTTP request has one for each of its choices."""

ReplicaId = NewType("ReplicaId", str)
"""One replica actor's id; a restarted replica gets a new one."""

AdapterDigest = NewType("AdapterDigest", str)
"""sha256 (hex) of a version: canonical manifest and tensors."""

BASE = AdapterDigest("")
"""Stands for the base model alone where requests or tokens are counted by adapter."""

DecisionId = NewType("DecisionId", str)
"""``dec_`` + 32 hex digits, derived from what the decision was asked for."""

Slot = NewType("Slot", int)
"""Index of an adapter's place in a replica's device bank."""
