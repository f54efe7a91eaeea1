"""Bounds what an adapter may be, and what adding it may cost."""

from dataclasses import dataclass

from cluster.config import AdapterConfig
from cluster.domain.adapter import BaseCheck

MIB = 2**20


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """Limits on one adapter and on the fetch that brings it in."""

    max_rank: int = 256  # of any module
    max_bytes: int = 512 * MIB  # of the safetensors file's data
    base_check: BaseCheck = "digest"  # as ``AdapterConfig.base_check``
    max_source_bytes: int = 1024 * MIB  # received, packed as the source sends it
    max_unpacked_bytes: int = 1024 * MIB  # of all archive members together
    max_files: int = 256  # in a folder or archive, whether used or not
    fetch_timeout_s: float = 300.0  # for the whole fetch
    stall_timeout_s: float = 30.0  # without a single byte

    @classmethod
    def from_config(
        cls, config: AdapterConfig, base_check: BaseCheck | None = None
    ) -> "AdapterLimits":
        """Take the limits of a replica's pool and of a fetch from the configuration.

        ``base_check`` is one adapter's own, in place of the configuration's.
        """
        return cls(
            max_rank=config.max_rank,
            max_bytes=config.memory_bytes,
            base_check=base_check or config.base_check,
            max_source_bytes=config.max_source_bytes,
            max_unpacked_bytes=config.max_unpacked_bytes,
            max_files=config.max_files,
            fetch_timeout_s=config.fetch_timeout_s,
            stall_timeout_s=config.stall_timeout_s,
        )
