"""The tenants file is followed: whole contents take effect, broken ones never."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cluster.domain.ids import TenantId
from cluster.errors import AuthenticationFailed, ConfigError
from cluster.tenancy.followed_tenants import FollowedTenants, TenantsChange
from cluster.tenancy.keys import hash_key


def content(**keys: str) -> str:
    """Return tenants by id, each with one key."""
    return yaml.safe_dump(
        {"tenants": [{"id": id, "keys": [hash_key(key)]} for id, key in keys.items()]}
    )


def look_twice(followed: FollowedTenants) -> TenantsChange | None:
    """Look twice: a content counts with the second look that sees it."""
    first = followed.sync()
    return followed.sync() or first


def who(followed: FollowedTenants, key: str) -> str | None:
    try:
        return followed.directory.authenticate(f"Bearer {key}").id
    except AuthenticationFailed:
        return None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tenants.yaml"
    made.write_text(content(acme="one", globex="two"))
    return made


def test_an_edit_takes_effect(path: Path) -> None:
    followed = FollowedTenants(path)
    assert followed.sync() is None
    path.write_text(content(acme="other", initech="three"))
    assert look_twice(followed) == TenantsChange(
        added=(TenantId("initech"),), removed=(TenantId("globex"),), changed=(TenantId("acme"),)
    )
    found = [who(followed, key) for key in ("one", "two", "other", "three")]
    assert found == [None, None, "acme", "initech"]


def test_a_file_that_is_being_written_is_not_taken_for_a_shorter_one(path: Path) -> None:
    followed = FollowedTenants(path)
    whole = content(acme="one", globex="two", initech="three")
    half = content(acme="one")  # what an editor has written so far is valid
    path.write_text(half)
    assert followed.sync() is None
    assert followed.unsettled
    path.write_text(whole)
    assert followed.sync() is None
    assert who(followed, "two") == "globex"
    change = followed.sync()
    assert change is not None
    assert change.added == ("initech",)
    assert not followed.unsettled


def test_the_same_size_and_time_are_no_reason_to_believe_that_nothing_changed(path: Path) -> None:
    import os

    followed = FollowedTenants(path)
    before = path.stat()
    path.write_text(content(acme="six", globex="two"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert look_twice(followed) is not None
    assert who(followed, "six") == "acme"


def test_a_mounted_folder_whose_link_moves(tmp_path: Path) -> None:
    """Kubernetes swaps a link to a folder; the file's own path stays."""
    for number, key in enumerate(("one", "two")):
        (tmp_path / f"data{number}").mkdir()
        (tmp_path / f"data{number}" / "tenants.yaml").write_text(content(acme=key))
    (tmp_path / "now").symlink_to("data0")
    followed = FollowedTenants(tmp_path / "now" / "tenants.yaml")
    (tmp_path / "next").symlink_to("data1")
    (tmp_path / "next").replace(tmp_path / "now")
    shutil.rmtree(tmp_path / "data0")
    assert look_twice(followed) is not None
    assert who(followed, "two") == "acme"


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "tenants: []",
        "tenants: [",
        "\x00",
        content(acme="one", Bad="x"),
        content(acme="one").replace("- id: acme", "- id: acme\n  id: other"),
        content(acme="one", globex="one"),
        content(acme="one") + content(acme="three").removeprefix("tenants:\n"),
        content(acme="one") + "weights: 3\n",
        "- just\n- a list\n",
        "[" * 5000,
    ],
)
def test_a_broken_edit_keeps_the_last_good_tenants(path: Path, broken: str) -> None:
    followed = FollowedTenants(path)
    path.write_text(broken)
    assert look_twice(followed) is None
    assert followed.error is not None
    assert str(path) in followed.error
    assert who(followed, "one") == "acme"
    assert who(followed, "two") == "globex"
    path.write_text(content(acme="one", globex="two"))
    look_twice(followed)
    assert followed.error is None


def test_bytes_that_are_not_text_and_a_file_that_is_gone(path: Path) -> None:
    followed = FollowedTenants(path)
    path.write_bytes(b"\xff\xfe tenants")
    assert look_twice(followed) is None
    assert "cannot be read" in str(followed.error)
    path.unlink()
    assert look_twice(followed) is None
    assert "No such file" in str(followed.error)
    assert who(followed, "one") == "acme"
    path.write_text(content(acme="three"))
    assert look_twice(followed) is not None
    assert who(followed, "three") == "acme"


def test_a_pipe_a_device_and_a_file_without_end_do_not_stop_the_looks(path: Path) -> None:
    followed = FollowedTenants(path)
    path.unlink()
    os.mkfifo(path)
    assert look_twice(followed) is None
    assert "expected a regular file" in str(followed.error)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert look_twice(followed) is None
    assert "expected a regular file" in str(followed.error)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no place on the disk
    assert look_twice(followed) is None
    assert "expected at most" in str(followed.error)
    path.unlink()
    path.write_text(content(acme="three"))
    assert look_twice(followed) is not None
    assert (who(followed, "one"), who(followed, "three")) == (None, "acme")


def test_a_first_content_that_is_broken_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text("tenants: []")
    with pytest.raises(ConfigError, match="tenants"):
        FollowedTenants(path)


NAMES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["k1", "k2", "k3", "k4"]), min_size=1
).filter(lambda keys: len(set(keys.values())) == len(keys))


class Following(RuleBasedStateMachine):
    """Whatever is written and whenever it is looked at, some content that was whole is in force."""

    def __init__(self) -> None:
        super().__init__()
        self.file: bytes | None = content(a="k1").encode()
        self.good = [self.file]
        self.in_row = 2  # looks that have seen the present content
        self.followed = FollowedTenants(Path("tenants.yaml"), self.read)

    def read(self, path: Path) -> bytes:
        if self.file is None:
            raise ConfigError(f"{path}: cannot be read")
        return self.file

    def put(self, new: bytes | None) -> None:
        if new != self.file:
            self.file, self.in_row = new, 0

    @rule(keys=NAMES)
    def write(self, keys: dict[str, str]) -> None:
        self.put(content(**keys).encode())

    @rule(cut=st.integers(0, 60))
    def cut_off(self, cut: int) -> None:
        self.put(self.file[:cut] if self.file else self.file)

    @rule()
    def remove(self) -> None:
        self.put(None)

    @rule()
    def look(self) -> None:
        before = self.followed.directory
        change = self.followed.sync()
        self.in_row += 1
        assert (change is None) == (self.followed.directory is before)

    @invariant()
    def what_two_looks_have_seen_is_in_force_or_named(self) -> None:
        if self.in_row < 2 or self.followed.unsettled:
            return
        if self.followed.error is None:
            assert self.file is not None
            ids = [entry["id"] for entry in yaml.safe_load(self.file)["tenants"]]
            assert [tenant.id for tenant in self.followed.directory.tenants] == ids
        assert self.followed.directory.tenants


Following.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_following = Following.TestCase
