"""What a request asks routing for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BaseWish:
    """The base model without an adapter."""


@dataclass(frozen=True, slots=True)
class AdapterWish:
    """One adapter, with weight 1."""

    alias: str


@dataclass(frozen=True, slots=True)
class MixtureTerm:
    """One line of the body's ``adapters``."""

    alias: str
    weight: float


@dataclass(frozen=True, slots=True)
class MixtureWish:
    """The caller's own mixture."""

    terms: tuple[MixtureTerm, ...]


@dataclass(frozen=True, slots=True)
class RouterWish:
    """A router's choice: ``auto`` (the first router) or ``auto:<router>``."""

    router: str | None = None


RoutingWish = BaseWish | AdapterWish | MixtureWish | RouterWish
