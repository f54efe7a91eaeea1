"""Chooses who asks for which adapters: one (tenant, set) for each request.

Adapters are numbered. Number i is named ``a0000`` and so on, and belongs to tenant i modulo the
number of tenants; a set's tenant is that of its first drawn member, and it may hold adapters of
others, as adapters that all tenants share.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

from cluster.domain.ids import TenantId
from cluster.simulation.traces.popularity import Popularity


class AdapterAsk(NamedTuple):
    """The tenant of one request, and its adapters, sorted."""

    tenant: TenantId
    adapters: tuple[str, ...]


class AskRule(Protocol):
    """Chooses tenant and set of each request, in order of time. One object serves one trace."""

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return those of the request at ``at`` seconds."""
        ...


@dataclass(frozen=True)
class AdapterNames:
    """Names numbered adapters and their tenants."""

    tenants: int = 1
    adapter: str = "a"
    tenant: str = "tenant"

    def asked(self, numbers: Sequence[int]) -> AdapterAsk:
        """Return the request for some adapters; its tenant is that of the first."""
        names = tuple(sorted(f"{self.adapter}{number:04d}" for number in set(numbers)))
        return AdapterAsk(self.tenant_of(numbers[0] if numbers else 0), names)

    def tenant_of(self, number: int) -> TenantId:
        """Return the tenant of an adapter."""
        return TenantId(f"{self.tenant}-{number % self.tenants}")


@dataclass(frozen=True)
class OneByPopularity:
    """One adapter, by popularity. With ``rotate_s`` ranks drift.

    At time t, rank r is adapter ``(r + shift * floor(t / rotate_s)) mod n``.
    """

    popularity: Popularity
    names: AdapterNames = AdapterNames()
    rotate_s: float | None = None
    shift: int = 1

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return one adapter and its tenant."""
        return self.names.asked([self.draw(rng, at)])

    def draw(self, rng: Random, at: float) -> int:
        """Return an adapter's number."""
        rank = self.popularity.draw(rng)
        if self.rotate_s is None:
            return rank
        return (rank + self.shift * int(at // self.rotate_s)) % len(self.popularity)


@dataclass(frozen=True)
class Mixtures:
    """Sets of k adapters from a block model of co-occurrence.

    Adapters 0..b-1 are the first block of size b, and so on. The first member comes from ``first``;
    k from ``sizes``, where ``sizes[j]`` is the probability of k = j + 1. Each other member comes,
    with probability ``within``, evenly from the first one's block, else from ``first``. A member
    that is there already is drawn again, from all adapters after some tries.
    """

    first: OneByPopularity
    sizes: tuple[float, ...]
    block: int = 4
    within: float = 0.9

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return a set and the tenant of its first member."""
        total = len(self.first.popularity)
        members = [self.first.draw(rng, at)]
        k = min(rng.choices(range(1, len(self.sizes) + 1), self.sizes)[0], total)
        start = members[0] // self.block * self.block
        block = range(start, min(start + self.block, total))
        while len(members) < k:
            inside = rng.random() < self.within and not set(block) <= set(members)
            member = rng.choice(block) if inside else self.first.draw(rng, at)
            if member in members:
                left = block if inside else range(total)
                member = rng.choice([one for one in left if one not in members])
            members.append(member)
        return self.first.names.asked(members)


@dataclass(frozen=True)
class FixedSets:
    """One of some given sets, by popularity."""

    sets: tuple[tuple[int, ...], ...]
    popularity: Popularity
    names: AdapterNames = AdapterNames()

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return a set and the tenant of its first member."""
        del at
        return self.names.asked(self.sets[self.popularity.draw(rng)])


@dataclass(frozen=True)
class MovingHotSet:
    """``hot`` of ``total`` adapters get all requests, evenly; every ``move_s`` the next ``hot``."""

    total: int
    hot: int
    move_s: float
    names: AdapterNames = AdapterNames()

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return one hot adapter."""
        begin = int(at // self.move_s) * self.hot
        return self.names.asked([(begin + rng.randrange(self.hot)) % self.total])


@dataclass(frozen=True)
class WideningSet:
    """Adapters 0..n-1, evenly, where n grows in steps: ``steps[i]`` from ``i * step_s`` on."""

    steps: tuple[int, ...]
    step_s: float
    names: AdapterNames = AdapterNames()

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return one of the adapters in use now."""
        step = min(int(at // self.step_s), len(self.steps) - 1)
        return self.names.asked([rng.randrange(self.steps[step])])


@dataclass
class InTurn:
    """``count`` adapters in turn, of one tenant: none is asked for again before all others."""

    count: int
    names: AdapterNames = AdapterNames()
    _next: "itertools.count[int]" = field(default_factory=itertools.count)

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return the next adapter."""
        del rng, at
        return self.names.asked([next(self._next) % self.count])


@dataclass(frozen=True)
class BaseOnly:
    """The base model without adapters."""

    names: AdapterNames = AdapterNames()

    def ask(self, rng: Random, at: float) -> AdapterAsk:
        """Return an empty set; tenants are drawn evenly."""
        del at
        return AdapterAsk(self.names.tenant_of(rng.randrange(self.names.tenants)), ())


BASE_ONLY = BaseOnly()
