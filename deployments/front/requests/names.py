"""What a request's ``model`` and ``adapters`` ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import RequestError
from deployments.front.openai.wire import AdapterTerm
from router_service.routing_request import (
    AdapterRequest,
    BaseModelRequest,
    MixtureRequest,
    MixtureTerm,
    RouterRequest,
    RoutingRequest,
)

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names under which the base model answers: its id, and the id's last part."""

    model_id: str

    @property
    def short(self) -> str:
        """The id without the organisation or folders."""
        return self.model_id.rstrip("/").rsplit("/", 1)[-1]

    @property
    def with_mixture(self) -> tuple[str, ...]:
        """What ``model`` may be where ``adapters`` is given."""
        return tuple(dict.fromkeys((self.model_id, self.short, AUTO)))

    def is_base(self, name: str) -> bool:
        """Whether ``name`` means the base model alone."""
        return name in (self.model_id, self.short)

    def adapter_of(self, name: str) -> str:
        """``base:adapter`` without the base; any other name as it is."""
        for base in (self.model_id, self.short):
            if name.startswith(f"{base}:"):
                return name[len(base) + 1 :]
        return name

    def routing_request(self, model: str, adapters: Sequence[AdapterTerm] | None) -> RoutingRequest:
        """The base, an adapter, an explicit mixture or a router.

        Raises:
            RequestError: ``adapters`` beside a ``model`` that already names an adapter or router.
        """
        if adapters is not None:
            if model not in self.with_mixture:
                raise RequestError(
                    f"adapters: an explicit mixture goes with model {self.model_id!r} or "
                    f"{AUTO!r}, not {model!r}",
                    param="adapters",
                )
            return MixtureRequest(tuple(MixtureTerm(term.name, term.weight) for term in adapters))
        if self.is_base(model):
            return BaseModelRequest()
        if model == AUTO:
            return RouterRequest()
        if model.startswith(f"{AUTO}:"):
            return RouterRequest(model[len(AUTO) + 1 :])
        return AdapterRequest(self.adapter_of(model))
