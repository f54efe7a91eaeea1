"""Reads the file of ``braid up --config``: the settings that have no option."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.config import AppConfig, Section
from cluster.errors import ConfigError
from cluster.field_problems import all_problems
from cluster.regular_file import read_regular
from cluster.strict_yaml import load_strict_yaml

INSTEAD = {
    "model": "--model",
    "adapters_dir": "--adapters",
    "routers": "--router",
    "tenants_file": "--tenants",
    "replica": "--replicas",
    "redis_url": "--redis-url or BRAID_REDIS_URL",
    "signing_key": "BRAID_SIGNING_KEY",
    "cache_dir": "BRAID_CACHE_DIR",
}
"""Keys of a Serve config that the file may not have: an option or a variable is in their place."""
KEYS = tuple(name for name in AppConfig.model_fields if name not in INSTEAD)


def read_settings(path: Path) -> dict[str, Any]:
    """Return what the file sets, by section; relative paths are from the file's folder.

    Raises:
        ConfigError: it cannot be read, is not YAML, or has a key or a value that is not possible.
    """
    try:
        tree = load_strict_yaml(read_regular(path).decode())
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: expected keys as in a Serve config's args, such as `front:`; "
            f"the keys are {', '.join(KEYS)}"
        )
    for key in tree:
        if key in INSTEAD:
            raise ConfigError(f"{path}: {key}: not read from this file; give {INSTEAD[key]}")
        if key not in KEYS:
            raise ConfigError(f"{path}: {key}: unknown key; known keys: {', '.join(KEYS)}")
    try:
        config = AppConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {all_problems(error)}") from error
    return _absolute(config, path.resolve().parent).model_dump(exclude_unset=True)


def merged(settings: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the options in place of those that both name."""
    found = dict(settings)
    for key, value in options.items():
        before = found.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            found[key] = merged(before, value)
        else:
            found[key] = value
    return found


def _absolute(section: Section, folder: Path) -> Section:
    """Copy a section with absolute paths, as the supervisor works in another folder."""
    changed: dict[str, Any] = {}
    for name in section.model_fields_set:
        value = getattr(section, name)
        if isinstance(value, Path):
            changed[name] = (folder / value.expanduser()).resolve()
        elif isinstance(value, Section):
            changed[name] = _absolute(value, folder)
    return section.model_copy(update=changed)
