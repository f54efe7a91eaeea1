"""The quickstart's application: demo adapters, demo router, two demo tenants."""

import secrets
from pathlib import Path

from cluster.config import AppConfig, RouterConfig
from cluster.errors import ConfigError
from cluster.tenancy.quickstart import write_demo_tenants
from deployments.local.local_state import StateDir

PROJECT_ROOT = Path(__file__).resolve().parents[2]
DEMO_ADAPTERS = PROJECT_ROOT / "demo" / "adapters"
DEMO_ROUTER = PROJECT_ROOT / "demo" / "router"
DEMO_RIGHTS = {
    "acme": ("sql", "json", "cron", "shell"),
    "globex": ("dates", "tickets", "equations", "json"),
}
"""Each tenant has what the other has not, and both have one in common."""


def with_demo(config: AppConfig, state: StateDir) -> AppConfig:
    """Fill ``config`` with the demo's adapters, router and tenants; writes the tenants' files.

    Raises:
        ConfigError: the demo's files are not part of this installation.
    """
    filled = demo_config(config, state)
    write_demo_tenants(state.tenants, state.keys, DEMO_RIGHTS, secrets.token_bytes)
    return filled


def demo_config(config: AppConfig, state: StateDir) -> AppConfig:
    """Fill ``config`` with the demo's adapters, router and tenants; writes nothing.

    Raises:
        ConfigError: the demo's files are not part of this installation.
    """
    for folder in (DEMO_ADAPTERS, DEMO_ROUTER):
        if not folder.is_dir():
            raise ConfigError(
                f"{folder}: the demo is not part of this installation; name your own with "
                "--adapters DIR, or start without any with --no-demo"
            )
    adapters = config.adapters
    if "base_check" not in adapters.model_fields_set:
        # The hub's copy of the base and the wheel's, which was quantised, have two digests.
        adapters = adapters.model_copy(update={"base_check": "name"})
    return config.model_copy(
        update={
            "adapters_dir": DEMO_ADAPTERS,
            "adapters": adapters,
            "routers": (RouterConfig(name="dlp", path=DEMO_ROUTER),),
            "tenants_file": state.tenants,
        }
    )
