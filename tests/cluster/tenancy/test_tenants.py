"""Tenants files, keys and rights."""

import os

import pytest
import yaml

from cluster.errors import AuthenticationFailed, ConfigError
from cluster.tenancy.keys import hash_key, new_key, read_keys, write_keys
from cluster.tenancy.limits import QuotaLimits
from cluster.tenancy.quickstart import write_demo_tenants
from cluster.tenancy.tenants import load_tenants

KEY = "brd_secret"
RIGHTS = {"acme": ["sql", "dates"], "globex": ["cron"]}


class Random:
    """Repeatable bytes, different each time."""

    def __init__(self):
        self.calls = 0

    def __call__(self, count):
        self.calls += 1
        return bytes([self.calls]) * count


def write(tmp_path, *tenants, **extra):
    path = tmp_path / "tenants.yaml"
    path.write_text(yaml.safe_dump({"tenants": list(tenants)} | extra))
    return path


def tenant(name="acme", key=KEY, **fields):
    return {"id": name, "keys": [hash_key(key)], "adapters": ["sql"]} | fields


def test_a_key_finds_its_tenant(tmp_path):
    directory = load_tenants(
        write(
            tmp_path,
            tenant(requests_per_minute=5, tokens_per_minute=7, max_concurrent=2, weight=2.5),
            tenant("globex", "other", adapters=["*"], admin=True),
        )
    )
    acme = directory.authenticate(f"Bearer {KEY}")
    assert (acme.id, acme.admin, acme.weight) == ("acme", False, 2.5)
    assert acme.limits == QuotaLimits(5, 7, 2)
    assert acme.may_use("sql")
    assert not acme.may_use("cron")
    globex = directory.authenticate("bearer   other ")
    assert globex.admin
    assert globex.may_use("anything")
    assert [t.id for t in directory.tenants] == ["acme", "globex"]


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer é☃"],
)
def test_anything_else_finds_nobody(tmp_path, header):
    directory = load_tenants(write(tmp_path, tenant()))
    with pytest.raises(AuthenticationFailed) as refusal:
        directory.authenticate(header)
    assert KEY not in refusal.value.message


def test_a_hash_is_not_a_key(tmp_path):
    directory = load_tenants(write(tmp_path, tenant()))
    with pytest.raises(AuthenticationFailed):
        directory.authenticate(f"Bearer {hash_key(KEY)}")


def test_several_keys_allow_a_change_without_a_gap(tmp_path):
    both = tenant(keys=[hash_key("old"), hash_key("new")])
    directory = load_tenants(write(tmp_path, both))
    assert {directory.authenticate(f"Bearer {k}").id for k in ("old", "new")} == {"acme"}


@pytest.mark.parametrize(
    ("tenants", "says"),
    [
        ([tenant(), tenant("Globex", "x")], "tenants[1].id"),
        ([tenant(adapter=["sql"])], "tenants[0].adapter"),
        ([tenant(), tenant("globex", "x", adapters=["a", 3])], "tenants[1].adapters[1]"),
        ([tenant(keys=[])], "tenants[0].keys"),
        ([tenant(keys=[KEY])], "tenants[0].keys[0]"),
        ([tenant(weight=0)], "tenants[0].weight"),
        ([tenant(weight=float("inf"))], "tenants[0].weight"),
        ([tenant(weight=1001)], "tenants[0].weight: Input should be less than or equal to 1000"),
        ([tenant(requests_per_minute=0)], "tenants[0].requests_per_minute"),
        ([tenant(), tenant(key="x")], "tenants[1].id: 'acme' is also tenants[0]"),
        ([tenant(), tenant("globex")], "tenants[1].keys[0]: the same key as tenants[0].keys[0]"),
        ([], "tenants"),
    ],
)
def test_mistakes_are_named_by_file_and_path(tmp_path, tenants, says):
    path = write(tmp_path, *tenants)
    with pytest.raises(ConfigError) as refusal:
        load_tenants(path)
    assert says in refusal.value.message
    assert str(path) in refusal.value.message


def test_all_mistakes_are_listed(tmp_path):
    with pytest.raises(ConfigError, match=r"tenants\[0\].weight.*tenants\[0\].colour"):
        load_tenants(write(tmp_path, tenant(weight=-1, colour="red")))


def test_only_what_is_wrong_is_told(tmp_path):
    with pytest.raises(ConfigError) as refusal:
        load_tenants(write(tmp_path, tenant("Acme", keys=["abc"], adapter=["sql"])))
    told = refusal.value.message.removeprefix(f"{tmp_path / 'tenants.yaml'}: ").split("; ")
    assert [one.partition(":")[0] for one in told if one.startswith("tenants")] == [
        "tenants[0].id",
        "tenants[0].keys[0]",
        "tenants[0].adapter",
    ]
    assert "expected the sha256 of a key" in refusal.value.message
    assert "unknown key; known keys: id, keys, adapters" in refusal.value.message


@pytest.mark.parametrize("content", ["", "a: [", "[1, 2]", "tenants: 3", "other: 1"])
def test_files_that_hold_no_tenants(tmp_path, content):
    path = tmp_path / "tenants.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"tenants\.yaml"):
        load_tenants(path)


@pytest.mark.parametrize("content", ["", "# later", "~", "[1, 2]"])
def test_a_file_without_entries_says_how_to_begin(tmp_path, content):
    path = tmp_path / "tenants.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as refusal:
        load_tenants(path)
    assert refusal.value.message == (
        f'{path}: file: expected a mapping of keys and values; begin with "tenants:"'
    )


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_tenants(tmp_path / "nowhere.yaml")


def test_rights_to_unknown_adapters_are_all_listed(tmp_path):
    directory = load_tenants(
        write(
            tmp_path,
            tenant(adapters=["sql", "slq"]),
            tenant("globex", "x", adapters=["*", "cron", "dates"]),
        )
    )
    directory.check_rights(["sql", "slq", "cron", "dates"])
    with pytest.raises(ConfigError) as refusal:
        directory.check_rights(["sql", "dates"])
    assert "tenants[0].adapters[1]: no adapter 'slq'" in refusal.value.message
    assert "tenants[1].adapters[1]: no adapter 'cron'" in refusal.value.message
    assert "dates, sql" in refusal.value.message


def test_keys_are_long_random_and_url_safe():
    source = Random()
    one, two = new_key(source), new_key(source)
    assert one != two
    assert one.startswith("brd_")
    assert len(one) == 47
    assert one.removeprefix("brd_").replace("-", "").replace("_", "").isalnum()


def test_demo_tenants_can_call_at_once(tmp_path):
    tenants, keys_file = tmp_path / "state" / "tenants.yaml", tmp_path / "state" / "keys.json"
    keys = write_demo_tenants(tenants, keys_file, RIGHTS, Random())
    assert read_keys(keys_file) == keys
    assert keys_file.stat().st_mode & 0o777 == 0o600
    directory = load_tenants(tenants)
    directory.check_rights(["sql", "dates", "cron"])
    acme, globex, admin = (
        directory.authenticate(f"Bearer {keys[name]}") for name in ("acme", "globex", "admin")
    )
    assert acme.may_use("sql")
    assert not acme.may_use("cron")
    assert globex.may_use("cron")
    assert not globex.may_use("sql")
    assert admin.admin
    assert admin.may_use("sql")
    assert not acme.admin
    assert not any(key in tenants.read_text() for key in keys.values())
    assert sorted(p.name for p in tenants.parent.iterdir()) == ["keys.json", "tenants.yaml"]


def test_demo_keys_stay_when_rights_change(tmp_path):
    tenants, keys_file = tmp_path / "tenants.yaml", tmp_path / "keys.json"
    keys = write_demo_tenants(tenants, keys_file, RIGHTS, Random())
    again = write_demo_tenants(tenants, keys_file, {"acme": ["new"]}, Random())
    assert again == keys
    acme = load_tenants(tenants).authenticate(f"Bearer {keys['acme']}")
    assert acme.may_use("new")
    assert not acme.may_use("sql")


def test_a_keys_file_others_may_read_is_refused(tmp_path):
    path = tmp_path / "keys.json"
    write_keys(path, {"acme": KEY})
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=f"0600, found {mode:04o}"):
            read_keys(path)
    with pytest.raises(ConfigError):
        write_demo_tenants(tmp_path / "tenants.yaml", path, RIGHTS, Random())


def test_keys_files_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        write_keys(tmp_path / "keys.json", {"acme": KEY})
    finally:
        os.umask(before)
    assert (tmp_path / "keys.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "[]", '{"acme": 3}', "{"])
def test_broken_keys_files(tmp_path, content):
    path = tmp_path / "keys.json"
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        read_keys(path)
