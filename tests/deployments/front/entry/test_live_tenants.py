"""One holder of tenants: new ones for new requests, and what was for those that run."""

import asyncio
from pathlib import Path

import pytest
import structlog
import yaml

from cluster.domain.ids import TenantId
from cluster.errors import AuthenticationFailed
from cluster.tenancy.followed_tenants import FollowedTenants
from cluster.tenancy.keys import hash_key
from cluster.tenancy.tenants import TenantDirectory
from deployments.front.entry.live_tenants import LiveTenants
from deployments.front.telemetry.request_log import RequestRecord, begin_record
from tests.support.manual_clock import ManualClock


def write(path: Path, **tenants: dict[str, object]) -> None:
    entries = [{"id": id, "keys": [hash_key(f"key-{id}")], **t} for id, t in tenants.items()]
    path.write_text(yaml.safe_dump({"tenants": entries}))


def break_off(path: Path) -> None:
    path.write_text("tenants: nothing")


class Front:
    def __init__(self, path: Path, interval_s: float = 0.01) -> None:
        self.heard: list[TenantDirectory] = []
        self.tenants = LiveTenants(
            FollowedTenants(path), ManualClock(), interval_s, self.heard.append
        )

    async def look_twice(self) -> None:
        await self.tenants.refresh()
        await self.tenants.refresh()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tenants.yaml"
    write(made, acme={"adapters": ["sql"]}, globex={})
    return made


async def test_new_limits_rights_and_flags_are_those_of_the_next_request(path: Path) -> None:
    front = Front(path)
    before = front.tenants.authenticate("Bearer key-acme")
    write(path, acme={"adapters": ["json"], "admin": True, "max_concurrent": 3}, globex={})
    await front.look_twice()
    after = front.tenants.authenticate("Bearer key-acme")
    assert (after.admin, after.limits.max_concurrent, after.may_use("sql")) == (True, 3, False)
    assert front.tenants.tenant(TenantId("acme")) == after
    assert before.may_use("sql")  # a request that was begun with it goes on
    assert len(front.heard) == 1


async def test_a_tenant_that_is_gone_is_refused_and_its_running_requests_go_on(path: Path) -> None:
    front = Front(path)
    write(path, globex={})
    await front.look_twice()
    with pytest.raises(AuthenticationFailed):
        front.tenants.authenticate("Bearer key-acme")
    assert front.tenants.tenant(TenantId("acme")).may_use("sql")
    assert [tenant.id for tenant in front.tenants.tenants] == ["globex"]
    with pytest.raises(KeyError):
        front.tenants.tenant(TenantId("nobody"))


async def test_a_bad_edit_is_said_once_and_seen_until_it_is_mended(path: Path) -> None:
    front = Front(path)
    with structlog.testing.capture_logs() as lines:
        break_off(path)
        for _ in range(5):
            await front.tenants.refresh()
    assert [line["event"] for line in lines] == ["tenants.refused"]
    assert front.tenants.state.error is not None
    write(path, acme={}, globex={})
    await front.look_twice()
    assert front.tenants.state.error is None


async def test_it_is_followed_by_itself(path: Path) -> None:
    front = Front(path)
    front.tenants.start()
    write(path, acme={}, initech={})
    async with asyncio.timeout(20):
        while not front.heard:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
    assert front.tenants.authenticate("Bearer key-initech").id == "initech"
    await front.tenants.close()


async def test_whose_request_it_is_stands_in_its_line(path: Path) -> None:
    record = RequestRecord()
    begin_record(record)
    Front(path).tenants.authenticate("Bearer key-globex")
    assert record.tenant == "globex"
