"""Mixtures as they are written on the command line: ``a=0.5,b=-0.2``."""

import math
from pathlib import Path

from cluster.errors import ConfigError
from router_service.routers.base import MAX_WEIGHT


def parse_mixture(text: str, option: str = "--mixture") -> dict[str, float]:
    """Parse weights by alias, in the order written; a name alone has weight 1.

    Raises:
        ConfigError: a term without a name, a weight that is not a finite number or is too large, or
            a name twice.
    """
    mixture: dict[str, float] = {}
    for term in text.split(","):
        name, equals, weight = (part.strip() for part in term.partition("="))
        if not name:
            raise ConfigError(f"{option}: {term.strip()!r}: expected NAME=WEIGHT")
        if name in mixture:
            raise ConfigError(f"{option}: {name!r} is named twice")
        try:
            mixture[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ConfigError(f"{option}: {name}={weight}: not a number") from None
        if not math.isfinite(mixture[name]):
            raise ConfigError(f"{option}: {name}={weight}: not a finite number")
        if abs(mixture[name]) > MAX_WEIGHT:
            raise ConfigError(
                f"{option}: {name}={weight}: expected a weight of at most {MAX_WEIGHT:g} either way"
            )
    return mixture


def parse_names(text: str, option: str) -> tuple[str, ...]:
    """Parse names separated by commas.

    Raises:
        ConfigError: an empty one, or one twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not name or names.count(name) > 1:
            raise ConfigError(f"{option}: {name!r} is empty or named twice")
    return names


def adapter_folders(root: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Find the adapters' folders, by alias.

    Raises:
        ConfigError: one is not there; the message says which are.
    """
    for name in names:
        if not (root / name / "adapter_config.json").is_file():
            there = sorted(p.parent.name for p in root.glob("*/adapter_config.json"))
            raise ConfigError(
                f"{root}: no adapter {name!r}; there are: {', '.join(there) or 'none'}"
            )
    return {name: root / name for name in names}
