"""The form that all importers bring a published trace to.

Published traces know neither tenants nor adapters. A mapping adds them, by a rule and a seed, and
its words belong on every report that is made with the result.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from random import Random
from typing import Literal, NamedTuple

from cluster.domain.ids import TenantId
from cluster.errors import ConfigError
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.asking import BASE_ONLY, AskRule

TenantSource = Literal["rule", "label", "session"]
"""The origin of a request's tenant: the asking rule, or the file's own label or session."""


class PublishedRequest(NamedTuple):
    """One request as a published trace has it."""

    at: float  # seconds, from any moment
    prompt_tokens: int
    generated_tokens: int
    label: str = ""  # a model or a service
    session: str = ""
    blocks: tuple[int, ...] = ()  # hashes of the prompt's blocks, each with what precedes it
    block_tokens: int = 0  # tokens of a block


@dataclass(frozen=True)
class ImportMapping:
    """Says what to add to a published trace, and what to cut from it."""

    asking: AskRule = BASE_ONLY
    """Chooses tenant and adapters of each request."""
    seed: int = 0
    tenant: TenantSource = "rule"
    begin_s: float = 0.0  # only what comes from here on, counted from the first request
    duration_s: float | None = None  # only so much of it
    speed: float = 1.0  # times as fast: gaps are divided by it
    tokens: float = 1.0  # lengths are multiplied by it, so that a small model can take them
    most_tokens: int | None = None  # longest prompt plus answer; longer ones are left out
    block_tokens: int = 16  # that each hash of a prefix shall stand for

    def __post_init__(self) -> None:
        for name in ("speed", "tokens", "block_tokens"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected above 0, found {getattr(self, name)}")
        if self.duration_s is not None and not self.duration_s > 0:
            raise ConfigError(f"duration_s: expected above 0, found {self.duration_s}")

    @property
    def words(self) -> str:
        """Say what was added and changed."""
        parts = [f"adapters by {self.asking!r}, seed {self.seed}"]
        if self.tenant != "rule":
            parts.append(f"tenants by the file's {self.tenant}")
        if self.begin_s or self.duration_s is not None:
            length = "the rest" if self.duration_s is None else f"{self.duration_s:g} s"
            parts.append(f"from {self.begin_s:g} s, {length}")
        if self.speed != 1:
            parts.append(f"{self.speed:g} times as fast")
        if self.tokens != 1:
            parts.append(f"lengths times {self.tokens:g}")
        if self.most_tokens is not None:
            parts.append(f"at most {self.most_tokens} tokens")
        return "; ".join(parts)


@dataclass(frozen=True)
class ImportedTrace:
    """A published trace as this project reads it."""

    requests: list[TraceRequest]  # by time
    about: str  # the source's form, and what was added or left out
    failed: int = 0  # requests without an answer in the source, left out
    too_long: int = 0  # left out for ``most_tokens``


def import_requests(
    found: Iterable[PublishedRequest], mapping: ImportMapping, source: str
) -> ImportedTrace:
    """Return the trace made of what an importer read: sorted, cut and mapped.

    Args:
        found: in any order.
        mapping: what is added.
        source: the format's name, for people.

    Raises:
        ConfigError: nothing is left; or the length of the source's blocks is not a multiple of
            ``block_tokens``.
    """
    rows = sorted(found, key=attrgetter("at"))
    first = rows[0].at if rows else 0.0
    end = float("inf") if mapping.duration_s is None else mapping.begin_s + mapping.duration_s
    rng = Random(f"{mapping.seed}/import")
    requests, failed, too_long = [], 0, 0
    for row in rows:
        since = row.at - first
        if not mapping.begin_s <= since < end:
            continue
        if row.generated_tokens < 1 or row.prompt_tokens < 1:
            failed += 1
            continue
        request = _request(row, (since - mapping.begin_s) / mapping.speed, mapping, rng, source)
        if (
            mapping.most_tokens is not None
            and request.prompt_tokens + request.max_tokens > mapping.most_tokens
        ):
            too_long += 1
            continue
        requests.append(request)
    if not requests:
        raise ConfigError(
            f"{source}: no request is left of {len(rows)} ({failed} failed there, {too_long} are "
            "too long); widen begin_s, duration_s or most_tokens"
        )
    about = f"{source}: {len(requests)} requests; {mapping.words}"
    if failed:
        about += f"; {failed} that failed there left out"
    if too_long:
        about += f"; {too_long} too long left out"
    return ImportedTrace(requests, about, failed, too_long)


def _request(
    row: PublishedRequest, at: float, mapping: ImportMapping, rng: Random, source: str
) -> TraceRequest:
    asked = mapping.asking.ask(rng, at)
    name = {"rule": "", "label": row.label, "session": row.session}[mapping.tenant]
    prompt = max(1, round(row.prompt_tokens * mapping.tokens))
    answer = max(1, round(row.generated_tokens * mapping.tokens))
    return TraceRequest(
        at=at,
        tenant=TenantId(name) if name else asked.tenant,
        adapters=asked.adapters,
        prompt_tokens=prompt,
        generated_tokens=answer,
        max_tokens=answer,
        prefix=_prefix(row, prompt, mapping, source),
    )


def _prefix(
    row: PublishedRequest, prompt: int, mapping: ImportMapping, source: str
) -> tuple[int, ...]:
    """Cut the source's blocks into blocks of ``block_tokens``; the last, partial one is dropped."""
    if not row.blocks:
        return ()
    each, rest = divmod(row.block_tokens * mapping.tokens, mapping.block_tokens)
    if rest or not each:
        raise ConfigError(
            f"{source}: block_tokens: blocks of {row.block_tokens} tokens times "
            f"{mapping.tokens:g} must be a multiple of {mapping.block_tokens}; change tokens or "
            "block_tokens"
        )
    parts = int(each)
    chain = (block * parts + part for block in row.blocks for part in range(parts))
    return tuple(chain)[: prompt // mapping.block_tokens]
