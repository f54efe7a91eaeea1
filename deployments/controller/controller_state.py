"""The controller's state in Redis, which outlives it, and its right to act.

Keys: ``braid:v1:controller:epoch`` counts the lives of controllers; ``...:lease`` lasts while one
of them renews it; ``...:demand`` is the demand, compressed JSON; ``...:forecast`` is a hash of the
forecast's parts, JSON; ``...:history:<topic>`` are lists of lines, newest last. A controller whose
epoch is not the highest cannot write any of them. What replicas follow is not kept: they know it,
and say so.
"""

import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any, cast

import orjson
import structlog
from redis.exceptions import RedisError

from cluster.placement.control.history import TOPICS, Change
from cluster.redis_client import ServerScript, redis_client

log = structlog.get_logger(__name__)

STEM = "braid:v1:controller"
EPOCH, LEASE, DEMAND = f"{STEM}:epoch", f"{STEM}:lease", f"{STEM}:demand"
FORECAST = f"{STEM}:forecast"
HISTORY = tuple(f"{STEM}:history:{topic}" for topic in dict.fromkeys(TOPICS.values()))
TIMEOUT_S = 1.0
LEASE_MS = 10_000
LINES_KEPT = 10_000
"""Of each topic."""
LINES_READ = 200
_LINES_AT_ONCE = 500
_FORECAST = 4
_LIST_OF_TOPIC = {topic: number + 5 for number, topic in enumerate(dict.fromkeys(TOPICS.values()))}


@dataclass(frozen=True, slots=True)
class EarlierLife:
    """The state that an earlier controller has left."""

    demand: dict[str, Any] | None
    history: tuple[Change, ...]  # oldest first within each topic
    forecast: dict[str, Any] = field(default_factory=dict)


class ControllerState:
    """Writes differences only; what could not be written is written by a later call."""

    def __init__(self, url: str) -> None:
        self._redis = redis_client(url, timeout_s=TIMEOUT_S, name="braid-controller")
        self._take = ServerScript(self._redis, _script("take_epoch.lua"))
        self._write = ServerScript(self._redis, _script("write_state.lua"))
        self._lines: deque[Change] = deque(maxlen=LINES_KEPT)  # not written yet
        self.error: str | None = None
        """Says why the last access failed; None if it did not."""

    async def take_epoch(self, above: int, *, last: int) -> int | None:
        """Begin a life; return its epoch, or None if Redis does not answer.

        Args:
            above: an epoch that is known to have been used, whatever Redis has.
            last: the caller's last epoch, where a higher one ended its right to act: it returns
                None as well while another controller renews its lease. 0 for a new process,
                which takes over at once.
        """
        try:
            epoch = await self._take(keys=[EPOCH, LEASE], args=[above, LEASE_MS, last or ""])
        except (RedisError, OSError) as error:
            self._failed(error)
            return None
        self.error = None
        return int(epoch) or None

    async def load(self) -> EarlierLife | None:
        """Return what earlier lives have left, or None if Redis does not answer.

        What cannot be read, such as a line of a kind that another release has, is left out.
        """
        try:
            demand: bytes | None = await cast("Any", self._redis.get(DEMAND))
            parts = await cast("Any", self._redis.hgetall(FORECAST))
            lists = [await cast("Any", self._redis.lrange(key, -LINES_READ, -1)) for key in HISTORY]
        except (RedisError, OSError) as error:
            self._failed(error)
            return None
        self.error = None
        lines = [_line(content) for found in lists for content in found]
        read = tuple(line for line in lines if line is not None)
        return EarlierLife(_demand(demand), read, _forecast(parts))

    def add_lines(self, lines: Iterable[Change]) -> None:
        """Have lines of the history written by the next call of ``write``."""
        self._lines.extend(lines)

    async def write(
        self, epoch: int, demand: dict[str, Any] | None, forecast: Mapping[str, Any] | None = None
    ) -> int | None:
        """Renew the lease, and write the demand, if any, and the lines of the history.

        Args:
            epoch: the writer's.
            demand: all of it.
            forecast: parts of it that have changed.

        Returns:
            the epoch in force, which has refused all of it if it is higher than ``epoch``, or
            None if Redis does not answer.
        """
        lines = tuple(self._lines)[:_LINES_AT_ONCE]
        packed = b"" if demand is None else zlib.compress(orjson.dumps(demand), 1)
        arguments: list[Any] = [epoch, LEASE_MS, LINES_KEPT, packed]
        for name, part in (forecast or {}).items():
            arguments += [_FORECAST, name.encode() + b"\n" + orjson.dumps(part)]
        for line in lines:
            arguments += [_LIST_OF_TOPIC[line.topic], orjson.dumps(asdict(line))]
        keys = [EPOCH, LEASE, DEMAND, FORECAST, *HISTORY]
        try:
            found = int(await self._write(keys=keys, args=arguments))
        except (RedisError, OSError) as error:
            self._failed(error)
            return None
        self.error = None
        if found == epoch:
            for _ in lines:
                self._lines.popleft()
        return found

    async def close(self) -> None:
        """Close the connection."""
        await self._redis.aclose()

    def _failed(self, error: Exception) -> None:
        if self.error is None:
            log.warning("controller.state_unavailable", error=str(error))
        self.error = f"{type(error).__name__}: {error}"


def _line(content: bytes) -> Change | None:
    try:
        line = Change(**orjson.loads(content))
    except (TypeError, ValueError):
        return None
    readable = isinstance(line.at, float) and isinstance(line.kind, str)
    return line if readable and line.kind in TOPICS else None


def _demand(content: bytes | None) -> dict[str, Any] | None:
    try:
        demand = None if content is None else orjson.loads(zlib.decompress(content))
    except (zlib.error, ValueError) as error:
        log.error("controller.state_refused", error=repr(error))
        return None
    return demand if isinstance(demand, dict) else None


def _forecast(parts: Mapping[bytes, bytes]) -> dict[str, Any]:
    try:
        return {name.decode(): orjson.loads(part) for name, part in parts.items()}
    except ValueError as error:
        log.error("controller.state_refused", error=repr(error))
        return {}


def _script(name: str) -> str:
    return files("deployments.controller").joinpath(name).read_text(encoding="utf-8")
