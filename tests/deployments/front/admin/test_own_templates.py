"""An adapter's own chat template: used where the adapter alone is asked."""

from pathlib import Path

import pytest

from tests.support.admin_requests import TAR
from tests.support.archives import tar_of_folder
from tests.support.byte_base import write_adapter
from tests.support.http_front import HttpFront
from tests.support.openai_bodies import CHAT, chat

OWN = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"


@pytest.fixture
async def templated(front: HttpFront, tmp_path: Path) -> HttpFront:
    """Give the front the adapter ``own``, which brings a template."""
    folder = write_adapter(tmp_path / "own", 5.0)
    (folder / "chat_template.jinja").write_text(OWN)
    content = tar_of_folder(folder)
    answer = await front.post("/admin/v1/adapters?name=own", content, "root", headers=TAR)
    assert answer.status_code == 201, answer.text
    assert answer.json()["chat_template"] == "own"
    assert "differs from the base's" in answer.json()["notes"][-1]
    return front


async def prompt(front: HttpFront, **fields: object) -> str:
    answer = await front.post(CHAT, chat(**fields))
    assert answer.status_code == 200, answer.text
    return front.text_of(front.script.submitted[-1].prompt_token_ids)


async def test_it_writes_the_messages_of_its_adapter(templated: HttpFront) -> None:
    for _ in range(2):  # the second time from memory
        assert await prompt(templated, model="own") == "[hi]"


async def test_mixtures_and_the_base_have_the_bases(templated: HttpFront) -> None:
    own = await prompt(templated, model="own")
    assert await prompt(templated) != own
    assert await prompt(templated, adapters=[{"name": "own"}]) != own


async def test_a_route_is_decided_by_it_too(templated: HttpFront) -> None:
    body = {"messages": chat()["messages"], "model": "own"}
    answer = await templated.post("/v1/route", body)
    assert answer.status_code == 200


async def test_one_that_was_changed_since_is_not_used(templated: HttpFront) -> None:
    (file,) = templated.store.rglob("chat_template.jinja")
    file.chmod(0o644)
    file.write_text("{{ messages[0]['content'] }}")
    answer = await templated.post(CHAT, chat(model="own"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "adapter_corrupt")
