"""Finds the tier of a tenant."""

from collections.abc import Mapping
from fnmatch import fnmatchcase


def tier_of(tenants: Mapping[str, str], tenant: str) -> str | None:
    """Return the tier of the first pattern that matches, or None without one."""
    for pattern, tier in tenants.items():
        if fnmatchcase(tenant, pattern):
            return tier
    return None
