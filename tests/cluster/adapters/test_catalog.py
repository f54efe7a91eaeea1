"""Checks the catalog: aliases, and broken folders that hide no other."""

import json
import subprocess
import sys

import pytest

from cluster.adapters.catalog import AdapterCatalog
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest
from cluster.errors import ConfigError, ModelNotFound


@pytest.fixture
def folder(tmp_path, write_adapter):
    for seed, alias in enumerate(("sql", "dates", "cron")):
        write_adapter(tmp_path / alias, seed=seed)
    return tmp_path


def test_aliases_are_folder_names(folder):
    catalog = AdapterCatalog.scan(folder)
    assert list(catalog.entries) == ["cron", "dates", "sql"]
    assert len(catalog) == 3
    entry = catalog.entries["sql"]
    assert (entry.key.owner, entry.key.alias, entry.path) == (
        SHARED_OWNER,
        "sql",
        str(folder / "sql"),
    )
    assert catalog.by_digest(entry.key.digest) is entry
    assert not catalog.problems


def test_an_unknown_digest(folder):
    with pytest.raises(ModelNotFound, match="no-such"):
        AdapterCatalog.scan(folder).by_digest(AdapterDigest("no-such"))


def test_broken_folders_are_kept_with_their_reason(folder, write_adapter):
    write_adapter(folder / "dora", use_dora=True)
    (folder / "sql" / "adapter_model.safetensors").write_bytes(b"12")
    write_adapter(folder / "-dash")
    write_adapter(folder / "auto")
    write_adapter(folder / "Smol")
    write_adapter(folder / "CRON", seed=9)
    catalog = AdapterCatalog.scan(folder, reserved=["smol"])
    problems = {p.alias: (p.code, p.message) for p in catalog.problems}
    assert list(catalog.entries) == ["CRON", "dates"]
    assert problems["dora"][0] == "adapter_unsupported"
    assert "DoRA" in problems["dora"][1]
    assert problems["sql"][0] == "adapter_malformed"
    assert "alias must match" in problems["-dash"][1]
    assert "reserved" in problems["auto"][1]
    assert "reserved" in problems["Smol"][1]
    assert "by case only" in problems["cron"][1]
    assert len(problems) == 6


def test_what_is_no_adapter_is_ignored_and_named(folder):
    (folder / "README.md").write_text("hello")
    (folder / ".hidden").mkdir()
    (folder / "router").mkdir()
    catalog = AdapterCatalog.scan(folder)
    assert catalog.ignored == ("README.md", "router")
    assert not catalog.problems


def test_a_folder_linked_from_elsewhere_is_a_problem(folder, tmp_path_factory, write_adapter):
    outside = write_adapter(tmp_path_factory.mktemp("outside") / "x")
    (folder / "linked").symlink_to(outside)
    (problem,) = AdapterCatalog.scan(folder).problems
    assert problem.alias == "linked"
    assert "symlink" in problem.message


def test_two_aliases_of_one_version(folder, write_adapter):
    write_adapter(folder / "sql-again", seed=0)
    catalog = AdapterCatalog.scan(folder)
    digest = catalog.entries["sql"].key.digest
    assert catalog.entries["sql-again"].key.digest == digest
    assert catalog.by_digest(digest).key.alias == "sql"


def test_a_missing_folder_is_the_operator_s_mistake(tmp_path):
    with pytest.raises(ConfigError, match="adapters_dir"):
        AdapterCatalog.scan(tmp_path / "nowhere")


def test_an_empty_folder_is_an_empty_catalog(tmp_path):
    assert len(AdapterCatalog.scan(tmp_path)) == 0


def test_tags_and_description_come_from_the_notes(tmp_path, write_adapter):
    write_adapter(tmp_path / "x", notes={"tags": ["a", "b"], "description": "What it does"})
    entry = AdapterCatalog.scan(tmp_path).entries["x"]
    assert entry.tags == ("a", "b")
    assert entry.manifest.description == "What it does"


def test_the_catalog_needs_no_torch(folder):
    program = f"""
import json, sys
from pathlib import Path
from cluster.adapters.catalog import AdapterCatalog
entries = AdapterCatalog.scan(Path({str(folder)!r})).entries
heavy = [m for m in ("torch", "numpy", "safetensors", "transformers") if m in sys.modules]
print(json.dumps([sorted(entries), heavy]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(run.stdout) == [["cron", "dates", "sql"], []]
