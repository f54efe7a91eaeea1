"""`braid tenants`: rights always, keys only when asked for; a file is checked on its own."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import AppConfig
from cluster.tenancy.keys import hash_key
from cluster.tenancy.quickstart import write_demo_tenants
from deployments.local.local_state import StateDir, write_run

Braid = Callable[..., Any]


@pytest.fixture
def keys(state: StateDir) -> dict[str, str]:
    rights = {"acme": ("sql", "json"), "globex": ()}
    return write_demo_tenants(state.tenants, state.keys, rights, secrets.token_bytes)


def test_rights_without_keys(braid: Braid, keys: dict[str, str]) -> None:
    result = braid("tenants", "list")
    assert result.exit_code == 0
    assert "json, sql" in result.stdout
    assert not [key for key in keys.values() if key in result.stdout]


def test_keys_when_asked_for(braid: Braid, keys: dict[str, str]) -> None:
    result = braid("tenants", "list", "--keys")
    assert result.exit_code == 0
    for tenant, key in keys.items():
        assert [line for line in result.stdout.splitlines() if line.split() == [tenant, key]]


def test_a_keys_file_that_others_can_read_is_refused(
    braid: Braid, state: StateDir, keys: dict[str, str]
) -> None:
    state.keys.chmod(0o644)
    result = braid("tenants", "list", "--keys")
    assert result.exit_code == 1
    assert f"{state.keys}: expected mode 0600, found 0644" in result.stderr
    assert not [key for key in keys.values() if key in result.stdout + result.stderr]
    assert braid("tenants", "list").exit_code == 0


def test_an_own_tenants_file_has_no_keys_to_show(
    braid: Braid, state: StateDir, keys: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"tenants: [{{id: mine, keys: [{hash_key('k')}], tokens_per_minute: 77}}]")
    write_run(state, AppConfig(tenants_file=path))
    assert "77" in braid("tenants", "list").stdout
    result = braid("tenants", "list", "--keys")
    assert result.exit_code == 1
    assert "hashes of keys only" in result.stderr


def test_before_the_first_start(braid: Braid) -> None:
    result = braid("tenants", "list")
    assert result.exit_code == 1
    assert "braid up" in result.stderr


def test_a_file_is_checked_before_it_is_used(braid: Braid, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"tenants: [{{id: mine, keys: [{hash_key('k')}], admin: true}}]")
    result = braid("tenants", "check", path)
    assert result.exit_code == 0
    assert "1 tenants, administrators: mine" in result.stdout
    path.write_text("tenants: [{id: mine, keys: [k], admn: true}]")
    result = braid("tenants", "check", path)
    assert result.exit_code == 1
    assert "tenants[0].keys[0]" in result.stderr
    assert "tenants[0].admn" in result.stderr
