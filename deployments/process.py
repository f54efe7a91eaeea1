"""The start that front, replica and controller have in common, and their orderly end."""

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from cluster.adapters.catalog import AdapterCatalog
from cluster.base_model.source import ModelLocation, resolve_model
from cluster.clock import Clock, SystemClock
from cluster.config import AppConfig, Settings, cache_folder
from cluster.domain.model_names import base_names
from deployments.adapter_follower import AdapterFollower
from deployments.cluster_secrets import Secrets, read_secrets
from deployments.log_setup import configure_logging
from deployments.ray_compat import bind_serve_to_loopback
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.redis_store import RedisDecisionStore


@dataclass(frozen=True, slots=True)
class Process:
    """The parts that every actor of the cluster has. Its parts end in the reverse of their order.

    One owner, the actor, which calls ``close`` once.
    """

    config: AppConfig
    secrets: Secrets
    clock: Clock
    base: ModelLocation
    adapters: AdapterFollower
    _closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    def on_close(self, close: Callable[[], Awaitable[object]]) -> None:
        """Call ``close`` at the end, before everything that was registered until now."""
        self._closing.push_async_callback(close)

    def on_close_sync(self, close: Callable[[], object]) -> None:
        """Do the same for a function that awaits nothing."""
        self._closing.callback(close)

    async def close(self) -> None:
        """End all parts, the last one first. One that fails keeps none of the others from it.

        Raises:
            Exception: the last failure.
        """
        await self._closing.aclose()


async def start_process(args: dict[str, Any], role: str, *, hears_text: bool = False) -> Process:
    """Start an actor: its log, its ports, the base model's files and the adapters' registry.

    The registry is in sync before this returns, unless Redis is down.

    Args:
        args: an ``AppConfig`` in JSON form.
        role: the actor's label in the log.
        hears_text: the process handles what clients write; see ``configure_logging``.

    Raises:
        ConfigError: a secret is missing, or the Redis server is of a form that is not supported.
    """
    configure_logging(role, hears_text=hears_text)
    bind_serve_to_loopback()
    config = AppConfig.model_validate(args)
    hide_gpus(os.environ, config.replica.num_gpus if role == "replica" else 0)
    secrets = read_secrets(config)
    clock = SystemClock()
    base = await asyncio.to_thread(locate_model, config)
    catalog = await asyncio.to_thread(scan_adapters, config, base.model_id)
    adapters = AdapterFollower.build(config, secrets, clock, base.model_id, catalog)
    await adapters.start()
    process = Process(config, secrets, clock, base, adapters)
    process.on_close(adapters.close)
    return process


def hide_gpus(environment: MutableMapping[str, str], gpus: float) -> None:
    """Hide a node's GPUs from a process that was given none: Ray shows it all of them.

    Call it before CUDA's driver is used.
    """
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""


def locate_model(config: AppConfig) -> ModelLocation:
    """Return the base model's folder, after fetching it if it is not on this machine yet."""
    return resolve_model(config.model, config.cache_dir or cache_folder(Settings()))


def scan_adapters(config: AppConfig, model_id: str) -> AdapterCatalog:
    """Read the adapters of ``adapters_dir``; there are none if it is not set."""
    if config.adapters_dir is None:
        return AdapterCatalog()
    return AdapterCatalog.scan(config.adapters_dir, reserved=base_names(model_id))


def decision_store(process: Process) -> tuple[RedisDecisionStore, DecisionCodec]:
    """Return the decision store on Redis and the codec that signs for it."""
    codec = DecisionCodec(process.secrets.signing_key)
    store = RedisDecisionStore(
        process.secrets.redis_url, codec, process.clock, process.config.decisions
    )
    return store, codec
