"""vLLM's routes for adapters, which here act on the whole cluster."""

from typing import Any

import httpx2
import pytest

from tests.support.http_front import HttpFront, OpenFront
from tests.support.openai_bodies import CHAT, chat


async def load(front: HttpFront, path: str = "fresh", **fields: Any) -> httpx2.Response:
    body = {"lora_name": "new", "lora_path": path, **fields}
    return await front.post("/v1/load_lora_adapter", body, "root")


async def test_an_adapter_is_loaded_and_unloaded(front: HttpFront) -> None:
    answer = await load(front)
    assert answer.status_code == 200
    assert answer.text == "Success: LoRA adapter 'new' added successfully."
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await front.post(CHAT, chat(model="new"))).status_code == 200
    removing = front.post("/v1/unload_lora_adapter", {"lora_name": "new"}, "root")
    answer = await front.in_time(removing)
    assert answer.text == "Success: LoRA adapter 'new' removed successfully."
    assert (await front.post(CHAT, chat(model="new"))).status_code == 404


async def test_a_path_may_be_absolute(front: HttpFront) -> None:
    assert (await load(front, str(front.sources / "fresh"))).status_code == 200


async def test_a_loaded_name_is_replaced_only_where_asked(front: HttpFront) -> None:
    assert (await load(front)).status_code == 200
    assert (await load(front, "other")).status_code == 409
    assert (await load(front, "other", load_inplace=True)).status_code == 200


async def test_an_adapter_that_is_not_loaded_is_404(front: HttpFront) -> None:
    answer = await front.post("/v1/unload_lora_adapter", {"lora_name": "ghost"}, "root")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"base_model_name": "x"}, "base_model_name"),
        ({"is_3d_lora_weight": True}, "is_3d_lora_weight"),
        ({"lora_path": 3}, "lora_path"),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
async def test_what_would_change_the_adapter_is_refused(
    front: HttpFront, fields: dict[str, Any], param: str
) -> None:
    answer = await front.post(
        "/v1/load_lora_adapter", {"lora_name": "new", "lora_path": "fresh", **fields}, "root"
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_path_that_is_nowhere_names_the_field(open_front: OpenFront) -> None:
    async with open_front(adapters={"source_hub": False}) as front:
        answer = await load(front, "org/nothing")
        assert answer.status_code == 403
        answer = await load(front, "https://files.example.com/x.tar")
        assert answer.status_code == 403
