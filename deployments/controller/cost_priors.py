"""The costs that a controller begins with: its profile, or the one kept in Redis, or defaults.

Profiles are kept by model, engine and device, so that a controller which is started without its
file begins with what another one was given for the same. What controllers learn is kept likewise,
so that one which is started again knows it.
"""

import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import orjson
import structlog
from redis.exceptions import RedisError

from cluster.config import AppConfig
from cluster.errors import ConfigError
from cluster.placement.cost.fit import PriorSource
from cluster.placement.cost.model import CostModel
from cluster.placement.cost.profile import CostProfile, engine_digest, parse_profile, read_profile
from cluster.redis_client import redis_client

log = structlog.get_logger(__name__)

PREFIX = "braid:v1:cost_profile"
FIT = "braid:v1:cost_fit"
TIMEOUT_S = 1.0
RETRY_S = 10.0
"""Between two looks for a profile where Redis does not answer."""


@dataclass(frozen=True, slots=True)
class CostPrior:
    """Costs to begin with."""

    costs: CostModel
    source: PriorSource
    error: str | None = None
    """Says why a profile is not used; None: nothing is wrong."""
    learned: Mapping[str, Any] = field(default_factory=dict)
    """Holds what earlier controllers have learnt on the same; see ``LearnedCosts.to_state``."""
    final: bool = True
    """False: Redis did not answer, and may have more."""


class CostPriors:
    """Finds the prior for the device that the replicas turn out to run on; one owner.

    Args:
        config: names the file, and the engine's settings.
        model_digest: of the base model.
        redis_url: where profiles are kept.
    """

    def __init__(self, config: AppConfig, model_digest: str, redis_url: str) -> None:
        self._path = config.controller.cost_profile
        self._model_digest = model_digest
        self._engine_digest = engine_digest(config.engine, config.adapters)
        self._redis = redis_client(redis_url, timeout_s=TIMEOUT_S, name="braid-cost-profile")
        self._device = ""  # that was found last
        self._due = -math.inf  # when to look again

    async def find_new(self, device: str, now: float) -> CostPrior | None:
        """Return the prior for a device, or None if the last one stands.

        It stands for the same device, unless Redis did not answer then, and while no replica says
        what it runs on.

        Args:
            device: empty if no replica has said it.
            now: monotonic seconds.
        """
        if not device or (device == self._device and now < self._due):
            return None
        found = await self.find(device)
        self._device, self._due = device, math.inf if found.final else now + RETRY_S
        return found

    async def find(self, device: str) -> CostPrior:
        """Return the prior for a device; keeps the file's profile in Redis.

        Raises nothing: without a profile, or with one of something else, the defaults are used, and
        ``error`` says why.
        """
        prior = await self._prior(device)
        if not prior.final:
            return prior
        try:
            content: bytes | None = await cast("Any", self._redis.get(self._key(FIT, device)))
        except (RedisError, OSError) as error:
            log.warning("controller.learned_costs_unavailable", error=str(error))
            return replace(prior, final=False)
        return prior if content is None else replace(prior, learned=_learned(content))

    async def keep_learned(self, device: str, learned: Mapping[str, Any]) -> None:
        """Keep what was learnt on a device, once what earlier controllers have learnt is known."""
        if device != self._device or self._due < math.inf:
            return
        packed = zlib.compress(orjson.dumps(learned), 1)
        try:
            await self._redis.set(self._key(FIT, device), packed)
        except (RedisError, OSError) as error:
            log.warning("controller.learned_costs_not_kept", error=str(error))

    async def _prior(self, device: str) -> CostPrior:
        try:
            found = await self._kept(device) if self._path is None else self._of_file(device)
        except ConfigError as error:
            log.error("controller.cost_profile_refused", error=error.message)
            return CostPrior(CostModel(), "default", error.message)
        except (RedisError, OSError) as error:
            log.warning("controller.cost_profile_unavailable", error=str(error))
            words = f"{type(error).__name__}: {error}"
            return CostPrior(CostModel(), "default", words, final=False)
        if found is None:
            return CostPrior(CostModel(), "default")
        if self._path is not None:
            await self._keep(found)
        return CostPrior(found.costs, "profile")

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    def _of_file(self, device: str) -> CostProfile:
        assert self._path is not None
        return self._checked(read_profile(self._path), device, str(self._path))

    async def _kept(self, device: str) -> CostProfile | None:
        key = self._key(PREFIX, device)
        content = await self._redis.get(key)
        if content is None:
            return None
        data = content if isinstance(content, bytes) else content.encode()
        return self._checked(parse_profile(data, key), device, key)

    async def _keep(self, profile: CostProfile) -> None:
        try:
            await self._redis.set(self._key(PREFIX, profile.device), profile.model_dump_json())
        except (RedisError, OSError) as error:
            log.warning("controller.cost_profile_not_kept", error=str(error))

    def _checked(self, profile: CostProfile, device: str, source: str) -> CostProfile:
        profile.check_engine(self._model_digest, self._engine_digest, source)
        profile.check_device(device, source)
        return profile

    def _key(self, prefix: str, device: str) -> str:
        name = hashlib.sha256(device.encode()).hexdigest()
        return f"{prefix}:{self._model_digest}:{self._engine_digest}:{name}"


def _learned(content: bytes) -> Mapping[str, Any]:
    try:
        learned = orjson.loads(zlib.decompress(content))
    except (zlib.error, ValueError) as error:
        log.error("controller.learned_costs_refused", error=repr(error))
        return {}
    return learned if isinstance(learned, dict) else {}
