"""Checks which of a conversation's messages reach a router."""

import pytest

from deployments.front.openai.wire import MAX_ROUTING_TURNS, ChatBody, RouteBody

PARTS = [{"type": "text", "text": "only from "}, {"type": "text", "text": "Rome"}]
CONVERSATION = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "all customers"},
    {"role": "assistant", "content": "SELECT * FROM customers;"},
    {"role": "user", "content": PARTS},
]


@pytest.mark.parametrize("body", [ChatBody, RouteBody])
def test_user_messages_are_turns(body: type[ChatBody] | type[RouteBody]) -> None:
    parsed = body.model_validate({"model": "auto", "messages": CONVERSATION})
    assert parsed.routing_turns == ("all customers", "only from Rome")


@pytest.mark.parametrize("body", [ChatBody, RouteBody])
def test_without_a_user_the_last_message_is_read(body: type[ChatBody] | type[RouteBody]) -> None:
    parsed = body.model_validate({"model": "auto", "messages": CONVERSATION[:1]})
    assert parsed.routing_turns == ("be brief",)


def test_a_prompt_is_one_turn() -> None:
    assert RouteBody.model_validate({"prompt": "p"}).routing_turns == ("p",)


def test_no_more_turns_than_a_router_may_read_leave_the_body() -> None:
    messages = [{"role": "user", "content": str(index)} for index in range(2000)]
    turns = ChatBody.model_validate({"model": "auto", "messages": messages}).routing_turns
    assert turns == tuple(str(index) for index in range(2000 - MAX_ROUTING_TURNS, 2000))
