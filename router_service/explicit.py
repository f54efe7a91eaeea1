"""The caller decides: the base, one adapter, or a mixture with the caller's weights."""

import struct
from dataclasses import dataclass
from typing import Final

from cluster.domain.adapter import AdapterKey, WeightedAdapter
from cluster.domain.decision import tagged_digest
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ModelNotFound, RequestError
from router_service.adapter_directory import AdapterDirectory
from router_service.routers.base import MAX_WEIGHT
from router_service.routing_request import (
    AdapterRequest,
    BaseModelRequest,
    MixtureRequest,
    MixtureTerm,
)

NAME: Final = "explicit"
VERSION: Final = "1"

ExplicitRequest = BaseModelRequest | AdapterRequest | MixtureRequest


@dataclass(frozen=True, slots=True)
class ExplicitMixture:
    """A validated request.

    ``mixture`` is sorted by digest; ``dropped`` names the adapters whose weight is zero: they
    were resolved, and their delta is nothing.
    """

    mixture: tuple[WeightedAdapter, ...]
    dropped: tuple[str, ...]


def mix_explicit(
    request: ExplicitRequest, tenant: TenantId, directory: AdapterDirectory, max_mixture: int
) -> ExplicitMixture:
    """Resolve and validate what the caller named. Weights are taken exactly as given.

    Two names that mean one version, as any switch may bring about, are one adapter with the sum
    of their weights, which is what the two would compute.

    Raises:
        RequestError: a weight is beyond ``MAX_WEIGHT``, a name is there twice, or there
            are more than ``max_mixture`` weights other than zero. ``param`` names the entry.
        ModelNotFound: an alias is unknown or not the tenant's.
    """
    match request:
        case BaseModelRequest():
            return ExplicitMixture((), ())
        case AdapterRequest(alias):
            return ExplicitMixture((WeightedAdapter(directory.resolve(tenant, alias), 1.0),), ())
        case MixtureRequest(terms):
            return _mix(terms, tenant, directory, max_mixture)


def mixture_digest(mixture: tuple[WeightedAdapter, ...]) -> str:
    """Return the digest of adapters and exact weights: the candidates of an explicit decision."""
    parts = []
    for term in mixture:
        parts.append(("adapter", term.key.digest.encode()))
        parts.append(("weight", struct.pack("<d", term.weight)))
    return tagged_digest(*parts)


def _resolve(alias: str, tenant: TenantId, directory: AdapterDirectory, param: str) -> AdapterKey:
    try:
        return directory.resolve(tenant, alias)
    except ModelNotFound as error:
        raise ModelNotFound(error.message, param=param) from error


def _mix(
    terms: tuple[MixtureTerm, ...],
    tenant: TenantId,
    directory: AdapterDirectory,
    max_mixture: int,
) -> ExplicitMixture:
    named: set[str] = set()
    summed: dict[AdapterDigest, WeightedAdapter] = {}
    for index, term in enumerate(terms):
        param = f"adapters[{index}]"
        _check_weight(term.weight, f"{param}.weight")
        if term.alias in named:
            raise RequestError(f"{term.alias!r} is named twice", param=f"{param}.name")
        named.add(term.alias)
        key = _resolve(term.alias, tenant, directory, f"{param}.name")
        before = summed.get(key.digest)
        if before is not None:
            key, weight = before.key, before.weight + term.weight
            _check_weight(weight, f"{param}.weight")
        else:
            weight = float(term.weight)
        summed[key.digest] = WeightedAdapter(key, weight)
    mixture = [term for term in summed.values() if term.weight != 0]
    dropped = [term.key.alias for term in summed.values() if term.weight == 0]
    if len(mixture) > max_mixture:
        raise RequestError(
            f"a mixture may have {max_mixture} adapters, not {len(mixture)}", param="adapters"
        )
    mixture.sort(key=lambda term: term.key.digest)
    return ExplicitMixture(tuple(mixture), tuple(dropped))


def _check_weight(weight: float, param: str) -> None:
    if not abs(weight) <= MAX_WEIGHT:
        raise RequestError(
            f"expected a weight from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}, found {weight}", param=param
        )
