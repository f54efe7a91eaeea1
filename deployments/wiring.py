"""What front, replica and controller build alike from the application's configuration."""

from dataclasses import dataclass

from cluster.adapters.catalog import AdapterCatalog
from cluster.base_model.source import ModelLocation, resolve_model
from cluster.clock import Clock
from cluster.config import AppConfig, Settings, cache_folder
from cluster.domain.model_names import base_names
from cluster.errors import ConfigError
from router_service.decision_store.codec import DecisionCodec
from router_service.decision_store.redis_store import RedisDecisionStore


@dataclass(frozen=True, slots=True)
class Secrets:
    """What every process of the cluster must know and nobody else may."""

    redis_url: str
    signing_key: bytes
    hub_token: str | None = None


def read_secrets(config: AppConfig) -> Secrets:
    """From the configuration, else from the environment.

    Raises:
        ConfigError: either is missing; the message names both places.
    """
    settings = Settings()
    redis_url = config.redis_url or settings.redis_url
    signing_key = config.signing_key or settings.signing_key
    if redis_url is None:
        raise ConfigError("redis_url: not configured, and BRAID_REDIS_URL is not set")
    if signing_key is None:
        raise ConfigError("signing_key: not configured, and BRAID_SIGNING_KEY is not set")
    hub_token = settings.hub_token
    return Secrets(
        redis_url.get_secret_value(),
        signing_key.get_secret_value().encode(),
        None if hub_token is None else hub_token.get_secret_value(),
    )


def locate_model(config: AppConfig) -> ModelLocation:
    """The base model's folder; fetched where it is not here yet."""
    return resolve_model(config.model, config.cache_dir or cache_folder(Settings()))


def scan_adapters(config: AppConfig, model_id: str) -> AdapterCatalog:
    """The adapters of ``adapters_dir``; none where it is not set."""
    if config.adapters_dir is None:
        return AdapterCatalog()
    return AdapterCatalog.scan(config.adapters_dir, reserved=base_names(model_id))


def decision_store(
    config: AppConfig, secrets: Secrets, clock: Clock
) -> tuple[RedisDecisionStore, DecisionCodec]:
    """The store on Redis and the codec that signs for it."""
    codec = DecisionCodec(secrets.signing_key)
    return RedisDecisionStore(secrets.redis_url, codec, clock, config.decisions), codec
