"""Holds the routers that decide now, and the adapters each may choose from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.domain.adapter import AdapterKey
from cluster.domain.decision import tagged_digest
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import ModelNotFound, RouterOutdated
from router_service.adapter_directory import AdapterDirectory
from router_service.artifacts.router_artifact import BASE_ALIAS
from router_service.routers.base import PromptRouter


@dataclass(frozen=True, slots=True)
class Candidates:
    """Lists the adapters that a router may choose for a tenant."""

    keys: Mapping[str, AdapterKey | None]  # by alias, in the router's order; the base has no key
    gone: tuple[str, ...]  # in words: adapters left out because their version is no longer kept

    @property
    def digest(self) -> str:
        """Return the digest (hex) of aliases and versions."""
        parts = []
        for alias, key in self.keys.items():
            parts.append(("alias", alias.encode()))
            parts.append(("adapter", b"" if key is None else key.digest.encode()))
        return tagged_digest(*parts)


@dataclass(frozen=True, slots=True)
class RouterTable:
    """Finds routers by name; replaced as a whole when they change.

    Args:
        routers: by name; the first one answers ``auto``.
        bound: by router, the version of each alias that it was made for, where it depends on it;
            that version is its candidate while it is kept, whatever the alias points to now.
        broken: by name, why a router cannot answer at present.
    """

    routers: Mapping[str, PromptRouter]
    bound: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str | None) -> PromptRouter:
        """Return the router of this name, or the first one for None.

        Raises:
            ModelNotFound: there is no such router.
            RouterOutdated: it cannot answer at present.
        """
        if name is None and self.routers:
            return next(iter(self.routers.values()))
        router = self.routers.get(name) if name is not None else None
        if router is None:
            if name is not None and name in self.broken:
                raise RouterOutdated(f"router {name!r}: {self.broken[name]}", param="model")
            known = ", ".join(self.routers) or "none"
            raise ModelNotFound(
                f"no router {'auto' if name is None else name!r}; there are: {known}",
                param="model",
            )
        return router

    def candidates(
        self, router: PromptRouter, tenant: TenantId, directory: AdapterDirectory
    ) -> Candidates:
        """Return the router's candidates that the tenant may use; removed ones are left out."""
        visible = dict(directory.visible(tenant))
        gone = []
        for alias, digest in self.bound.get(router.name, {}).items():
            if alias in visible and visible[alias].digest != digest:
                kept = directory.earlier(tenant, alias, AdapterDigest(digest))
                if kept is None:
                    now = visible.pop(alias).digest
                    gone.append(f"{alias!r} was {digest[:12]} and is {now[:12]}")
                else:
                    visible[alias] = kept
        keys = {
            alias: None if alias == BASE_ALIAS else visible[alias]
            for alias in router.candidates
            if alias == BASE_ALIAS or alias in visible
        }
        return Candidates(keys, tuple(gone))
