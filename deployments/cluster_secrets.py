"""Secrets that every process of one cluster shares."""

from dataclasses import dataclass

from cluster.config import AppConfig, Settings
from cluster.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Secrets:
    """Values that every process of the cluster must know and others must not."""

    redis_url: str
    signing_key: bytes
    hub_token: str | None = None


def read_secrets(config: AppConfig) -> Secrets:
    """Read the secrets from the configuration, else from the environment.

    Raises:
        ConfigError: Redis' address or the signing key is missing; the message names both places.
    """
    settings = Settings()
    redis_url = config.redis_url or settings.redis_url
    signing_key = config.signing_key or settings.signing_key
    if redis_url is None:
        raise ConfigError(
            "redis_url: expected in the configuration or in BRAID_REDIS_URL; set one of them"
        )
    if signing_key is None:
        raise ConfigError(
            "signing_key: expected in the configuration or in BRAID_SIGNING_KEY; set one of them"
        )
    hub_token = settings.hub_token
    return Secrets(
        redis_url.get_secret_value(),
        signing_key.get_secret_value().encode(),
        None if hub_token is None else hub_token.get_secret_value(),
    )
