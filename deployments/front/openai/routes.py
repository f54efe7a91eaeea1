"""Routes of OpenAI's API: chat, completions and models."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from cluster.clock import Clock
from cluster.domain.ids import TenantId
from cluster.errors import ModelNotFound
from cluster.tenancy.tenants import Tenant
from deployments.front.entry.door import Door
from deployments.front.http.json_answer import json_answer
from deployments.front.http.max_wait import max_wait_of
from deployments.front.http.request_id import request_id_of
from deployments.front.http.sse import EventStream, unless_disconnected
from deployments.front.openai.answer_stream import AnswerStream
from deployments.front.openai.answers import AnswerFormat, Envelope, usage_body
from deployments.front.openai.chat_answer import ChatAnswer
from deployments.front.openai.completion_answer import CompletionAnswer
from deployments.front.openai.models import ModelCards
from deployments.front.openai.prompt_requests import chat_request, completion_request
from deployments.front.openai.wire import ChatBody, CompletionBody, GenerationBody
from deployments.front.requests.explain import adapters_header
from deployments.front.requests.prompt_request import Endpoint, PromptRequest
from deployments.front.requests.request_service import RequestService
from deployments.front.requests.running import Running
from deployments.front.telemetry.request_log import current_record

CLIENT_CLOSED = 499


B = TypeVar("B", bound=GenerationBody)


class OpenAIRoutes:
    """Serves the endpoints of OpenAI's API.

    Args:
        service: generates.
        door: authenticates, charges and reads bodies.
        cards: lists models.
    """

    def __init__(
        self, service: RequestService, door: Door, cards: ModelCards, clock: Clock
    ) -> None:
        self._service = service
        self._door = door
        self._cards = cards
        self._clock = clock

    def router(self) -> APIRouter:
        """Return the routes, to be included in an application."""
        routes = APIRouter(prefix="/v1")
        routes.add_api_route("/chat/completions", self.chat_completions, methods=["POST"])
        routes.add_api_route("/completions", self.completions, methods=["POST"])
        routes.add_api_route("/models", self.models, methods=["GET"])
        routes.add_api_route("/models/{name:path}", self.model, methods=["GET"])
        return routes

    async def chat_completions(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, Endpoint.CHAT, ChatBody, chat_request)

    async def completions(self, request: Request) -> Response:
        """Continue one or several prompts."""
        return await self._answer(request, Endpoint.COMPLETIONS, CompletionBody, completion_request)

    async def models(self, request: Request) -> Response:
        """List everything that the tenant may put into ``model``."""
        tenant = await self._door.enter(request)
        return json_answer({"object": "list", "data": self._cards.of_tenant(tenant)})

    async def model(self, request: Request, name: str) -> Response:
        """Describe one model."""
        tenant = await self._door.enter(request)
        card = self._cards.find(tenant, name)
        if card is None:
            raise ModelNotFound(f"no model {name!r}", param="model")
        return json_answer(card)

    async def _answer(
        self,
        request: Request,
        endpoint: Endpoint,
        kind: type[B],
        to_prompt_request: Callable[[B], PromptRequest],
    ) -> Response:
        """Let in, begin, and answer whole or as a stream; records refusals."""
        tenant: Tenant | None = None
        try:
            tenant = self._door.known(request)  # also of a request that its quota refuses
            await self._door.charge(tenant)
            body = await self._door.read(request, tenant, kind)
            current_record().asks(endpoint, body.model, stream=body.stream)
            asked = dataclasses.replace(
                to_prompt_request(body), max_wait_s=max_wait_of(request.headers)
            )
            running = await self._service.begin(tenant, asked)
        except ClientDisconnect as error:
            self._service.refuse(_id_of(tenant), endpoint, error)
            return Response(status_code=CLIENT_CLOSED)
        except BaseException as error:
            self._service.refuse(_id_of(tenant), endpoint, error)
            raise
        wording = self._wording(request, running)
        if body.stream:
            return await self._stream(request, running, wording, body)
        return await self._whole(request, running, wording)

    def _wording(self, request: Request, running: Running) -> AnswerFormat:
        asked = running.request
        envelope = Envelope(
            id=request_id_of(request),
            created=int(self._clock.wall()),
            model=asked.model,
            codec=self._service.codec,
            logprobs=asked.sampling.logprobs is not None,
        )
        if asked.endpoint is Endpoint.CHAT:
            return ChatAnswer(envelope)
        return CompletionAnswer(envelope, running.echoes)

    async def _whole(self, request: Request, running: Running, wording: AnswerFormat) -> Response:
        """Answer when all choices have ended."""

        async def collect() -> None:
            while await running.relay.next_deltas():
                continue

        try:
            await unless_disconnected(request, collect())
        except ClientDisconnect as error:
            self._service.finish(running, error)
            return Response(status_code=CLIENT_CLOSED)
        except BaseException as error:
            self._service.finish(running, error)
            raise
        self._service.finish(running, None)
        await self._service.explain(running)
        usage = usage_body(running.answers, running.prompts)
        return json_answer(wording.whole(running.answers, usage), headers=_headers(running))

    async def _stream(
        self, request: Request, running: Running, wording: AnswerFormat, body: GenerationBody
    ) -> Response:
        """Answer with the first delta: until then an error still has its status."""
        try:
            first = await unless_disconnected(request, running.relay.next_deltas())
        except ClientDisconnect as error:
            self._service.finish(running, error)
            return Response(status_code=CLIENT_CLOSED)
        except BaseException as error:
            self._service.finish(running, error)
            raise
        options = body.stream_options
        stream = AnswerStream(
            self._service,
            running,
            wording,
            include_usage=options is not None and bool(options.include_usage),
            with_logprobs=running.request.sampling.logprobs is not None,
        )

        async def close() -> None:
            self._service.finish(running, ClientDisconnect())

        return EventStream(stream.events(first), on_close=close, headers=_headers(running))


def _id_of(tenant: Tenant | None) -> TenantId | None:
    return None if tenant is None else tenant.id


def _headers(running: Running) -> dict[str, str]:
    decided = running.decided
    return running.verdict.headers() | {
        "x-braid-decision": decided.decision.id,
        "x-braid-decision-source": decided.source.value,
        "x-braid-decision-store": decided.store_state.value,
        "x-braid-replica": running.replica,
        "x-braid-adapters": adapters_header(decided.decision.mixture),
    }
