"""The vocabulary of adapters."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from cluster.domain.ids import AdapterDigest, TenantId

BaseCheck = Literal["digest", "name", "shapes"]
"""Facts that must agree if an adapter names the base it was trained on; see ``AdapterConfig``."""
SHARED_OWNER = TenantId("shared")
"""Owner of adapters that every tenant may be given."""


@dataclass(frozen=True, slots=True)
class AdapterKey:
    """The version of an alias. ``digest`` alone is its identity; the rest is for people."""

    owner: TenantId
    alias: str
    digest: AdapterDigest


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """The contents of an adapter's files, parsed once and never changed.

    ``rank`` and ``alpha`` are the defaults; ``rank_pattern`` and ``alpha_pattern`` (PEFT's
    pattern -> value) override them per module. ``modules`` are the full module paths that really
    have tensors, e.g. ``model.layers.0.self_attn.q_proj``.
    """

    digest: AdapterDigest
    rank: int
    alpha: float
    use_rslora: bool
    target_modules: tuple[str, ...]  # short names, sorted: ("k_proj", "q_proj", ...)
    modules: tuple[str, ...]  # full paths with tensors, sorted
    max_rank: int  # largest rank of any module
    nbytes: int  # of all tensors as stored in the file
    base_model: str | None  # PEFT's base_model_name_or_path, for people
    base_digest: str | None  # digest of the base it was trained on, where manifest.json says so
    description: str = ""
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    chat_template: str | None = None  # sha256 of the adapter's own, where it has one
    invocation_tokens: tuple[int, ...] = ()
    """Of an activated LoRA: it applies from their last occurrence in a prompt on."""


class AdapterState(StrEnum):
    """The place of an adapter on one replica. The transition table is in ``residency.pool``."""

    ABSENT = "absent"
    FETCHING = "fetching"
    ON_HOST = "on_host"
    LOADING = "loading"
    READY = "ready"
    EVICTING = "evicting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WeightedAdapter:
    """One term of a mixture. The weight is any finite real: negative and above 1 are legal.

    The adapter's own ``alpha / r`` is never folded into the weight.
    """

    key: AdapterKey
    weight: float


@dataclass(frozen=True, slots=True)
class ResidentAdapter:
    """One adapter as a replica truly holds it, in a slot or in host memory."""

    digest: AdapterDigest
    alias: str
    state: AdapterState
    nbytes: int  # on the device; of a copy in host memory: there
    rank: int
    leases: int  # in-flight requests that hold it
    pinned: bool = False
    idle_s: float = 0.0  # since its last use, or since it was given room


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """One line of the catalog: an alias, its version, and where the files are."""

    key: AdapterKey
    manifest: AdapterManifest
    path: str
    tags: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = ()  # what people should know of its files, a sentence each
    base_check: BaseCheck | None = None  # what must agree with the base; None: as configured
