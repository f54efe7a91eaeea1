"""Resolves the names that a request asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.domain.model_names import AUTO, short_name
from cluster.errors import RequestError
from router_service.routing_request import (
    AdapterRequest,
    BaseModelRequest,
    MixtureRequest,
    MixtureTerm,
    RouterRequest,
    RoutingRequest,
)


@dataclass(frozen=True, slots=True)
class ModelNames:
    """Knows the names under which the base model answers: its id, and the id's last part."""

    model_id: str

    @property
    def short(self) -> str:
        """Return the id without the organisation or folders."""
        return short_name(self.model_id)

    @property
    def with_mixture(self) -> tuple[str, ...]:
        """Return the values of ``model`` that ``adapters`` may be given with."""
        return tuple(dict.fromkeys((self.model_id, self.short, AUTO)))

    def is_base(self, name: str) -> bool:
        """Return whether ``name`` means the base model alone."""
        return name in (self.model_id, self.short)

    def adapter_of(self, name: str) -> str:
        """Strip the base from ``base:adapter``; returns any other name as it is."""
        for base in (self.model_id, self.short):
            if name.startswith(f"{base}:"):
                return name[len(base) + 1 :]
        return name

    def routing_request(self, model: str, adapters: Sequence[MixtureTerm] | None) -> RoutingRequest:
        """Resolve to the base, an adapter, an explicit mixture or a router.

        Raises:
            RequestError: ``adapters`` with a ``model`` that already names an adapter or router.
        """
        if adapters is not None:
            if model not in self.with_mixture:
                raise RequestError(
                    f"adapters: an explicit mixture goes with model {self.model_id!r} or "
                    f"{AUTO!r}, not {model!r}",
                    param="adapters",
                )
            return MixtureRequest(tuple(adapters))
        if self.is_base(model):
            return BaseModelRequest()
        if model == AUTO:
            return RouterRequest()
        if model.startswith(f"{AUTO}:"):
            return RouterRequest(model[len(AUTO) + 1 :])
        return AdapterRequest(self.adapter_of(model))
