"""Builds the Serve application; everything is checked before any actor starts."""

from typing import Any

from pydantic import ValidationError
from ray import serve

from cluster.config import AppConfig
from cluster.errors import ConfigError
from cluster.field_problems import all_problems
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.policy_load import load_policy
from deployments.controller.controller import controller_deployment
from deployments.front.front import front_deployment
from deployments.replica.replica import replica_deployment

APP_NAME = "braid"


def parse_config(args: dict[str, Any]) -> AppConfig:
    """Parse the configuration.

    Raises:
        ConfigError: a key is unknown or a value wrong; the message has the path of each.
    """
    try:
        return AppConfig.model_validate(args)
    except ValidationError as error:
        raise ConfigError(f"application arguments: {all_problems(error)}") from error


def build_app(args: dict[str, Any]) -> serve.Application:
    """Build the application: fronts, replicas and the controller, bound to each other.

    Args:
        args: an ``AppConfig`` in JSON form. Secrets may come from the environment instead.

    Raises:
        ConfigError: the configuration, the tenants file or the policy file is wrong.
    """
    config = parse_config(args)
    if config.tenants_file is None:
        raise ConfigError(
            "tenants_file: required; name the file with the tenants that may send requests"
        )
    if config.engine.device == "cuda" and not config.replica.num_gpus:
        raise ConfigError(
            "replica.num_gpus: 0, and engine.device is cuda; say how many GPUs a replica has, such "
            "as 1: without any it sees none"
        )
    names = [router.name for router in config.routers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"routers: the name {name!r} is used twice; rename one of them")
    defaults = ClusterPolicy.fixed(config.replica.replicas)
    policy = load_policy(config.controller.policy_file, defaults)
    plain = config.model_dump(mode="json", exclude_unset=True)
    for secret in ("redis_url", "signing_key"):
        value = getattr(config, secret)
        if value is not None:
            plain[secret] = value.get_secret_value()
    replicas = replica_deployment(config, policy.replicas).bind(plain)
    controller = controller_deployment(config).bind(plain, replicas)
    return front_deployment(config).bind(plain, replicas, controller)
