"""The quickstart's tenants: two with different rights, and an administrator."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.private_file import write_private
from cluster.tenancy.keys import RandomSource, hash_key, new_key, read_keys, write_keys
from cluster.tenancy.tenants import ALL_ADAPTERS

DEMO_TENANTS = ("acme", "globex")
ADMIN_TENANT = "admin"

_HEADER = """\
# Written by `braid up` for its demo tenants, again at every start.
# For your own tenants copy this file and name it with --tenants FILE.
"""


def write_demo_tenants(
    path_tenants: Path,
    path_keys: Path,
    rights: Mapping[str, Sequence[str]],
    random_source: RandomSource,
) -> dict[str, str]:
    """Write the demo's tenants file and keys file; the keys, by tenant id.

    ``rights`` maps each demo tenant to its aliases. An existing keys file is used again, so that
    keys which people have copied stay valid.

    Raises:
        ConfigError: the existing keys file is malformed or readable by others.
    """
    keys = read_keys(path_keys) if path_keys.exists() else {}
    missing = [name for name in (*DEMO_TENANTS, ADMIN_TENANT) if name not in keys]
    if missing:
        keys |= {name: new_key(random_source) for name in missing}
        write_keys(path_keys, keys)
    tenants: list[dict[str, Any]] = [
        {"id": name, "keys": [hash_key(keys[name])], "adapters": list(rights.get(name, ()))}
        for name in DEMO_TENANTS
    ]
    tenants.append(
        {
            "id": ADMIN_TENANT,
            "keys": [hash_key(keys[ADMIN_TENANT])],
            "adapters": [ALL_ADAPTERS],
            "admin": True,
        }
    )
    write_private(path_tenants, _HEADER + yaml.safe_dump({"tenants": tenants}, sort_keys=False))
    return keys
