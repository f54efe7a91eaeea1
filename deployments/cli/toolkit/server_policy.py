"""Reads a server's answers about its policy."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cluster.errors import ConfigError
from cluster.field_problems import all_problems
from cluster.placement.policy import ClusterPolicy

POLICY = "/admin/v1/policy"
STATUS = "/admin/v1/status"


def defaults_of(shown: Mapping[str, Any]) -> ClusterPolicy:
    """Return the entries that a policy of this server need not have.

    Raises:
        ConfigError: they are of another release.
    """
    return policy_of(shown.get("defaults", {}))


def policy_of(fields: Mapping[str, Any]) -> ClusterPolicy:
    """Return the policy of all its entries. Raises as ``defaults_of``."""
    try:
        return ClusterPolicy.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(
            f"the server's policy is of another release: {all_problems(error)}; use the command "
            "line of the server's release"
        ) from error
