"""Defines what a caller can ask routing for: the base, an adapter, a mixture or a router."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BaseModelRequest:
    """Asks for the base model without an adapter."""


@dataclass(frozen=True, slots=True)
class AdapterRequest:
    """Asks for one adapter with weight 1."""

    alias: str


@dataclass(frozen=True, slots=True)
class MixtureTerm:
    """Names one adapter of a mixture and its weight."""

    alias: str
    weight: float


@dataclass(frozen=True, slots=True)
class MixtureRequest:
    """Asks for the caller's own mixture."""

    terms: tuple[MixtureTerm, ...]


@dataclass(frozen=True, slots=True)
class RouterRequest:
    """Asks for a router's choice: ``auto`` (the first router) or ``auto:<router>``."""

    router: str | None = None


RoutingRequest = BaseModelRequest | AdapterRequest | MixtureRequest | RouterRequest
