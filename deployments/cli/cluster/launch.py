"""Options of ``braid up``, checked in full before anything starts."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from cluster.adapters.catalog import AdapterCatalog
from cluster.base_model.source import ModelLocation
from cluster.config import AppConfig, EngineConfig, RouterConfig, Settings, engines_folder
from cluster.domain.adapter import AdapterEntry
from cluster.domain.model_names import base_names
from cluster.errors import AdapterSourceRefused, ConfigError
from cluster.field_problems import all_problems
from cluster.placement.cost.profile import engine_digest, read_profile
from deployments.cli.cluster.config_file import merged, read_settings
from deployments.engines.vllm_environment import INSTALL, Stamp
from deployments.engines.vllm_environment import NAME as VLLM
from deployments.local.gpus import Share, share_out
from deployments.local.lifecycle import default_threads
from deployments.local.local_state import StateDir, read_json
from deployments.local.quickstart import DEMO_RIGHTS, demo_config
from deployments.local.registered import registered_adapters

REDIS_TIMEOUT_S = 3.0
SECRET_FIELDS = ("redis_url", "signing_key")
SOURCE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\s]+(/[^?#\s]*)?)?")


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of ``braid up``; None is "not given"."""

    model: str | None = None
    adapters: Path | None = None
    no_demo: bool = False
    replicas: int | None = None
    gpus: int | None = None  # in all, one for each replica
    engine: str | None = None
    device: str | None = None
    threads: int | None = None  # per replica
    dtype: str | None = None
    quantize: str | None = None
    host: str | None = None
    port: int | None = None
    redis_url: str | None = None
    policy: Path | None = None
    tenants: Path | None = None
    routers: tuple[str, ...] = ()  # DIR or NAME=DIR
    slots: int | None = None  # adapters at once, per replica
    sources: Path | None = None  # whose folders may be added; the state folder has one
    source_urls: tuple[str, ...] = ()  # schemes, or beginnings of URLs
    base_check: str | None = None  # what must agree of an adapter's base
    cost_profile: Path | None = None
    config: Path | None = None  # settings that have no option


@dataclass(frozen=True, slots=True)
class Launch:
    """A configuration whose files have been read and found good."""

    config: AppConfig
    catalog: AdapterCatalog
    rights: Mapping[str, tuple[str, ...]] | None  # of the demo tenants; None: an own tenants file
    replicas: int  # that Serve starts with; a policy file may set it
    registered: Mapping[str, AdapterEntry] = field(default_factory=dict)
    """Adapters that were added to this cluster when it ran before, by alias."""
    unused: str | None = None  # why a GPU of this machine is not used, if it has one


def plan_launch(wish: Wish, state: StateDir, settings: Settings) -> Launch:
    """Read every file that the cluster will read; writes nothing.

    Raises:
        ConfigError: the first thing that is wrong, with its path.
    """
    from deployments.cli.cluster.asked_count import first_count

    config, unused = _config(wish, state, settings)
    if wish.adapters is not None and wish.no_demo:
        raise ConfigError(
            "--no-demo means no adapters at all; leave it out when you give --adapters"
        )
    if wish.adapters is None and not wish.no_demo:
        demo = demo_config(config, state)
        config = demo if not wish.routers else demo.model_copy(update={"routers": config.routers})
    catalog = _scan(config)
    registered = registered_adapters(config, state)
    rights = None if wish.tenants is not None else _rights(wish, config, catalog)
    if wish.tenants is not None:
        config = config.model_copy(update={"tenants_file": wish.tenants.resolve()})
        _check_tenants(wish.tenants, catalog.entries.keys() | registered.keys())
    else:
        config = config.model_copy(update={"tenants_file": state.tenants})
    first = first_count(config)
    gpus = config.replica.num_gpus * config.replica.replicas
    if gpus and first > gpus:
        raise ConfigError(
            f"{config.controller.policy_file}: replicas.min: it asks for {first} replicas, one GPU "
            f"each, and {gpus:g} are used; give --gpus {first}, or lower it"
        )
    return Launch(config, catalog, rights, first, registered, unused)


def check_machine(launch: Launch, model: ModelLocation) -> str | None:
    """Check what needs the base model or the network.

    Returns:
        A warning, or None if there is none.

    Raises:
        ConfigError: the replicas, a router or the cost profile do not fit, or the Redis server
            cannot be used.
    """
    from cluster.engine.memory.available_memory import check_memory
    from router_service.router_kinds import default_registry
    from router_service.routers.kind import SERVED_NEEDS, router_context

    if launch.config.engine.kind == "braid":  # others know what they need
        config = launch.config
        check_memory(model.path, config.engine, config.adapters, replicas=launch.replicas)
    _check_profile(launch.config, model)
    context = router_context(
        {**launch.catalog.entries, **launch.registered},
        launch.config.adapters.max_mixture,
        model.path,
        model.digest,
        provides=SERVED_NEEDS,
    )
    default_registry().build_all(launch.config.routers, context)
    if launch.config.redis_url is None:
        return None
    return check_redis(launch.config.redis_url.get_secret_value())


def _check_profile(config: AppConfig, model: ModelLocation) -> None:
    """Refuse a cost profile of another model or engine; its device is checked by the controller."""
    path = config.controller.cost_profile
    if path is not None:
        digest = engine_digest(config.engine, config.adapters)
        read_profile(path).check_engine(model.digest, digest, str(path))


def check_redis(url: str) -> str | None:
    """Refuse a Redis server that cannot be used; the message never has the password.

    Returns:
        What a full server would drop besides decisions, or None if nothing.

    Raises:
        ConfigError: the address is malformed, no server answers there, or the server is a node of a
            Redis Cluster or a Sentinel.
    """
    import redis

    from cluster.redis_server import eviction_risk, refusal

    where = url.rsplit("@", 1)[-1]
    fix = "check --redis-url or BRAID_REDIS_URL, or leave both out to have a server started"
    if urlsplit(url).scheme.startswith("redis+"):
        raise ConfigError(
            f"redis {where}: addresses of Sentinels are not supported; {fix}, and name the primary "
            "by an address that follows it"
        )
    try:
        with redis.Redis.from_url(
            url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
        ) as client:
            client.ping()
            info = client.info()
    except (redis.RedisError, OSError, ValueError) as error:
        raise ConfigError(f"redis {where}: {error}; {fix}") from error
    reason = refusal(info)
    if reason is not None:
        raise ConfigError(f"redis {where}: {reason}")
    risk = eviction_risk(info)
    return None if risk is None else f"redis {where}: {risk}"


def differences(state: StateDir, wished: AppConfig) -> list[str]:
    """List the paths of entries in which ``wished`` differs from the running cluster's
    configuration."""
    running = AppConfig.model_validate(read_json(state.run) or {})
    before, after = _flat(running), _flat(wished)
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _flat(config: AppConfig) -> dict[str, Any]:
    values: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                walk(f"{path}.{key}" if path else key, item)
        else:
            values[path] = value

    walk("", config.model_dump(mode="json"))
    for name in SECRET_FIELDS:
        secret = getattr(config, name)
        values[name] = secret.get_secret_value() if secret is not None else None
    return values


def _config(wish: Wish, state: StateDir, settings: Settings) -> tuple[AppConfig, str | None]:
    """Make the configuration; its paths are absolute, as the supervisor works in another folder.

    Returns why a GPU is not used as well.
    """
    redis_url = wish.redis_url
    if redis_url is None and settings.redis_url is not None:
        redis_url = settings.redis_url.get_secret_value()
    values: dict[str, Any] = {
        "model": _model_name(wish.model),
        "cache_dir": settings.cache_dir.resolve() if settings.cache_dir else None,
        "adapters_dir": wish.adapters.resolve() if wish.adapters else None,
        "redis_url": redis_url,
        "routers": tuple(_router(text) for text in wish.routers),
        "engine": {
            "kind": wish.engine,
            "device": wish.device,
            "dtype": wish.dtype,
            "quantize": wish.quantize,
            "threads": wish.threads,
        },
        "adapters": {
            "slots": wish.slots,
            "base_check": wish.base_check,
            "source_dir": _sources(wish.sources) if wish.sources else None,
            "source_urls": tuple(_source_url(url) for url in wish.source_urls) or None,
        },
        "front": {"host": wish.host, "port": wish.port},
        "controller": {
            "policy_file": wish.policy.resolve() if wish.policy else None,
            "cost_profile": wish.cost_profile.resolve() if wish.cost_profile else None,
        },
    }
    found = merged(read_settings(wish.config) if wish.config else {}, _given(values))
    share = _share(wish, _validated(found).engine, settings)
    usual = {
        "engine": {"threads": default_threads(share.replicas)},
        "adapters": {"source_dir": state.sources.resolve()},
        "replica": {"replicas": share.replicas, **({"num_gpus": share.gpus} if share.gpus else {})},
    }
    return _validated(merged(usual, found)), share.unused


def _validated(values: Mapping[str, Any]) -> AppConfig:
    try:
        return AppConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(all_problems(error)) from error


def _share(wish: Wish, engine: EngineConfig, settings: Settings) -> Share:
    """Return the replicas and their GPUs, for an engine as options and file have it."""
    environment = None
    if engine.kind == VLLM:
        python = engine.vllm.python  # of an environment made by hand
        environment = engines_folder(settings) / VLLM if python is None else python.parent.parent
        if python is not None and not python.is_file():
            raise ConfigError(f"engine.vllm.python: {python} is not there; name a file, or none")
        if python is None and Stamp.read(environment) is None:
            raise ConfigError(f"vLLM is not installed; run `{INSTALL}`")
    return share_out(engine.device, wish.gpus, wish.replicas, environment=environment)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out entries that are None, so that the defaults stay those of the configuration."""
    given = {
        key: _given(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }
    return {key: value for key, value in given.items() if value != {}}


def _model_name(model: str | None) -> str | None:
    if model is None:
        return None
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _router(text: str) -> RouterConfig:
    name, _, path = text.rpartition("=")
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(f"--router {text}: {folder} is not a directory")
    return RouterConfig(name=name or folder.name, path=folder)


def _sources(folder: Path) -> Path:
    found = folder.expanduser().resolve()
    if not found.is_dir():
        raise ConfigError(f"--sources {folder}: {found} is not a directory")
    return found


def _source_url(url: str) -> str:
    """Make an entry of the permitted sources, which must permit itself and no more."""
    from cluster.adapters.sources.allow_list import AllowList, without_secrets

    shown = without_secrets(url)
    if not SOURCE_URL.fullmatch(url):
        raise ConfigError(
            f"--source-url {shown}: expected a scheme such as s3://, or the beginning of a URL "
            "such as https://models.example.com/adapters, without query"
        )
    try:
        AllowList((url,)).check(url)
    except AdapterSourceRefused as error:
        raise ConfigError(f"--source-url {error.message}") from error
    except ValueError as error:
        raise ConfigError(f"--source-url {shown}: not a URL: {error}") from error
    return url


def _scan(config: AppConfig) -> AdapterCatalog:
    if config.adapters_dir is None:
        return AdapterCatalog()
    catalog = AdapterCatalog.scan(config.adapters_dir, reserved=base_names(config.model))
    if not catalog.entries:
        reasons = "".join(f"\n  {item.alias}: {item.message}" for item in catalog.problems)
        raise ConfigError(
            f"{config.adapters_dir}: has no adapter that can be served; expected folders with "
            f"adapter_config.json and adapter_model.safetensors{reasons}"
        )
    return catalog


def _rights(
    wish: Wish, config: AppConfig, catalog: AdapterCatalog
) -> Mapping[str, tuple[str, ...]]:
    if wish.no_demo:
        return {}
    aliases = tuple(catalog.entries)
    if wish.adapters is not None:
        return {"acme": aliases, "globex": aliases[: (len(aliases) + 1) // 2]}
    missing = sorted({name for names in DEMO_RIGHTS.values() for name in names} - set(aliases))
    if missing:
        raise ConfigError(
            f"{config.adapters_dir}: the demo lacks the adapters {', '.join(missing)}; restore "
            "them, name your own with --adapters DIR, or start without any with --no-demo"
        )
    return DEMO_RIGHTS


def _check_tenants(path: Path, aliases: Collection[str]) -> None:
    from cluster.tenancy.tenants import load_tenants

    load_tenants(path).check_rights(aliases)
