"""Finds the adapters that a simulation has: those that its trace asks for, and those kept by rule.

Fronts' logs name versions, ``sql@3f2a...``, while rules of a policy name aliases.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cluster.domain.ids import AdapterDigest, TenantId
from cluster.placement.planning.pins import matching
from cluster.placement.planning.plan import AdapterInfo
from cluster.placement.policy import AdapterRule
from cluster.simulation.trace import TraceRequest

ADAPTER_BYTES = 10_000_000
"""Of an adapter that no cluster has told the size of: rank 8 to 16 of a small model."""
_VERSION = re.compile(r"(.+)@[0-9a-f]{12}")


def with_catalog(
    requests: Sequence[TraceRequest],
    known: Mapping[str, AdapterInfo],
    rules: Iterable[AdapterRule] = (),
) -> tuple[list[TraceRequest], list[AdapterInfo]]:
    """Return the requests, with names that the catalogue has, and the catalogue.

    A version that is not known has the alias in its name, the median size of those that are known,
    and the owner of that alias, or else the tenant that asks for it first. An adapter that a rule
    keeps is there though nothing asks for it, unless the trace asks for another version of it.

    Args:
        known: adapters of a cluster, by every name in traces.
        rules: of all policies that are to serve the trace.
    """
    found = _asked_for(requests, known)
    renamed = {
        name: info.digest for name, info in found.items() if name in known or name != info.alias
    }
    ordered = sorted(found, key=lambda name: renamed.get(name, name))
    catalog = {found[name].digest: found[name] for name in ordered}
    there = {(info.owner, info.alias) for info in catalog.values()}
    idle = [info for info in known.values() if (info.owner, info.alias) not in there]
    kept = {info.digest: info for rule in rules for info in matching(rule, idle)}
    catalog |= {digest: kept[digest] for digest in sorted(kept)}
    return [_by_digest(asked, renamed) for asked in requests], list(catalog.values())


def _asked_for(
    requests: Iterable[TraceRequest], known: Mapping[str, AdapterInfo]
) -> dict[str, AdapterInfo]:
    """Return the adapters of a trace by the names that it has for them."""
    sizes = sorted(info.nbytes for info in known.values())
    usual = sizes[len(sizes) // 2] if sizes else ADAPTER_BYTES
    owners: dict[str, list[TenantId]] = {}
    for info in known.values():
        owners.setdefault(info.alias, []).append(info.owner)
    found: dict[str, AdapterInfo] = {}
    for request in requests:
        for name in request.adapters:
            if name not in found:
                found[name] = known.get(name) or _unknown(name, request.tenant, owners, usual)
    return found


def _unknown(
    name: str, asks: TenantId, owners: Mapping[str, Sequence[TenantId]], nbytes: int
) -> AdapterInfo:
    version = _VERSION.fullmatch(name)
    alias = name if version is None else version[1]
    those = owners.get(alias, (asks,))
    digest = AdapterDigest(hashlib.sha256(name.encode()).hexdigest())
    return AdapterInfo(digest, alias, asks if asks in those else those[0], nbytes)


def _by_digest(asked: TraceRequest, digests: Mapping[str, AdapterDigest]) -> TraceRequest:
    if digests.keys().isdisjoint(asked.adapters):
        return asked
    names = {digests.get(name, name) for name in asked.adapters}
    return replace(asked, adapters=tuple(sorted(names)))
