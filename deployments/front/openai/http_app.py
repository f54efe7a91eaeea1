"""The HTTP routes of OpenAI's API and Braid's own, over ``RequestService``."""

from collections.abc import AsyncGenerator
from functools import cache

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from cluster.errors import BraidError, DecisionNotFound, ModelNotFound
from cluster.tenancy.tenants import Tenant
from deployments.front.admin.adapter_routes import build_adapter_routes
from deployments.front.admin.admin_routes import build_admin_routes, check_may_scrape
from deployments.front.admin.router_routes import build_router_routes
from deployments.front.admin.vllm_routes import build_vllm_routes
from deployments.front.front_context import FrontContext
from deployments.front.http import problem
from deployments.front.http.json_answer import json_answer
from deployments.front.http.methods import install_methods
from deployments.front.http.request_id import RequestIdMiddleware, request_id_of
from deployments.front.http.sse import DONE, EventStream, event, unless_disconnected
from deployments.front.openai.answers import (
    AnswerFormat,
    Envelope,
    JsonObject,
    usage_body,
)
from deployments.front.openai.chat_answer import ChatAnswer
from deployments.front.openai.completion_answer import CompletionAnswer
from deployments.front.openai.models import model_card, model_cards
from deployments.front.openai.openapi.bodies import ServerFacts
from deployments.front.openai.openapi.document import openapi_document
from deployments.front.openai.wire import ChatBody, CompletionBody, RouteBody
from deployments.front.requests.explain import adapters_header, decision_body
from deployments.front.requests.generation import Delta
from deployments.front.requests.request_service import Running
from deployments.front.telemetry.metrics import CONTENT_TYPE
from deployments.front.telemetry.request_log import current_record

CLIENT_CLOSED = 499


def build_http_app(context: FrontContext) -> FastAPI:
    """The ASGI application of one front process."""
    app = FastAPI(
        title="Braid",
        version=context.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # it would send keys where the header Host says, without TLS
    )
    problem.install(app)
    service = context.service
    door = context.door
    document = cache(lambda: openapi_document(context.version, facts_of(context)))

    async def answer(request: Request, endpoint: str) -> Response:
        """Let in, begin, and answer whole or as a stream; count refusals."""
        tenant: Tenant | None = None
        body: ChatBody | CompletionBody
        try:
            tenant = door.known(request)  # also of a request that its quota refuses
            await door.charge(tenant)
            if endpoint == "chat":
                body = await door.read(request, tenant, ChatBody)
                current_record().asks(endpoint, body.model, stream=body.stream)
                running = await service.begin_chat(tenant, body)
            else:
                body = await door.read(request, tenant, CompletionBody)
                current_record().asks(endpoint, body.model, stream=body.stream)
                running = await service.begin_completion(tenant, body)
        except ClientDisconnect as error:
            service.refuse(tenant.id if tenant else None, endpoint, error)
            return Response(status_code=CLIENT_CLOSED)
        except BaseException as error:
            service.refuse(tenant.id if tenant else None, endpoint, error)
            raise
        return await generate(request, running, body)

    async def generate(
        request: Request, running: Running, body: ChatBody | CompletionBody
    ) -> Response:
        envelope = Envelope(
            id=request_id_of(request),
            created=int(context.clock.wall()),
            model=body.model,
            codec=service.codec,
            logprobs=running.generations[0].spec.sampling.logprobs is not None,
        )
        wording: AnswerFormat
        if running.endpoint == "chat":
            wording = ChatAnswer(envelope)
        else:
            wording = CompletionAnswer(envelope, running.echoes)
        if body.stream:
            include_usage = body.stream_options is not None and bool(
                body.stream_options.include_usage
            )
            return await stream(request, running, wording, include_usage)
        return await whole(request, running, wording)

    async def whole(request: Request, running: Running, wording: AnswerFormat) -> Response:
        async def collect() -> None:
            async for _ in service.deltas(running):
                pass

        try:
            await unless_disconnected(request, collect())
        except ClientDisconnect as error:
            service.finish(running, error)
            return Response(status_code=CLIENT_CLOSED)
        except BaseException as error:
            service.finish(running, error)
            raise
        service.finish(running, None)
        await service.explain(running)
        usage = usage_body(running.choices, running.prompts)
        return json_answer(wording.whole(running.choices, usage), headers=decision_headers(running))

    async def stream(
        request: Request, running: Running, wording: AnswerFormat, include_usage: bool
    ) -> Response:
        """Headers are sent with the first delta: until then an error still has its status."""
        deltas = service.deltas(running)
        try:
            first = await unless_disconnected(request, anext(deltas))
        except ClientDisconnect as error:
            await deltas.aclose()
            service.finish(running, error)
            return Response(status_code=CLIENT_CLOSED)
        except BaseException as error:
            service.finish(running, error)
            raise

        async def close() -> None:
            await deltas.aclose()
            service.finish(running, ClientDisconnect())

        return EventStream(
            events(running, wording, first, deltas, include_usage),
            on_close=close,
            headers=decision_headers(running),
        )

    async def events(
        running: Running,
        wording: AnswerFormat,
        first: tuple[int, Delta],
        deltas: AsyncGenerator[tuple[int, Delta], None],
        include_usage: bool,
    ) -> AsyncGenerator[bytes, None]:
        try:
            for index in range(len(running.choices)):
                opening = wording.opening(index)
                if opening is not None:
                    yield event({**opening, "usage": None} if include_usage else opening)
            index, delta = first
            yield event(await chunk(running, wording, index, delta, include_usage))
            async for index, delta in deltas:
                if (
                    delta.text
                    or delta.logprobs
                    or delta.prompt_logprobs
                    or delta.finish_reason is not None
                ):
                    yield event(await chunk(running, wording, index, delta, include_usage))
            if include_usage:
                yield event(wording.usage_chunk(usage_body(running.choices, running.prompts)))
        except BraidError as error:
            service.finish(running, error)
            yield event(problem.body_of(error))
            return
        except BaseException as error:
            service.finish(running, error)
            raise
        finally:
            await deltas.aclose()
        service.finish(running, None)
        yield DONE

    async def chunk(
        running: Running, wording: AnswerFormat, index: int, delta: Delta, include_usage: bool
    ) -> JsonObject:
        """A choice's last chunk has its explanation."""
        explanation = {}
        if delta.finish_reason is not None:
            await service.explain(running)
            explanation = running.choices[index].explanation
        return wording.chunk(index, delta, include_usage, explanation)

    def decision_headers(running: Running) -> dict[str, str]:
        decided = running.decided
        return running.verdict.headers() | {
            "x-braid-decision": decided.decision.id,
            "x-braid-decision-source": decided.source.value,
            "x-braid-decision-store": decided.store_state.value,
            "x-braid-replica": running.replica,
            "x-braid-adapters": adapters_header(decided.decision.mixture),
        }

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await answer(request, "chat")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, "completions")

    @app.post("/v1/route")
    async def route(request: Request) -> Response:
        tenant = await door.enter(request)
        body = await door.read(request, tenant, RouteBody)
        current_record().asks("route", body.model, stream=False)
        decided = await service.route(tenant, body)
        return json_answer(
            decision_body(
                decided.decision,
                decided.source,
                decided.store_state.value,
                explain=bool(body.explain),
            )
        )

    @app.get("/v1/decisions/{decision_id}")
    async def decision(request: Request, decision_id: str) -> Response:
        tenant = await door.enter(request)
        found = await service.routing.get(tenant.id, decision_id)
        if found.tenant != tenant.id:
            raise DecisionNotFound(f"no decision {decision_id} is kept", param="id")
        return json_answer(decision_body(found, found.source, None))

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        tenant = await door.enter(request)
        return json_answer({"object": "list", "data": model_cards(context, tenant)})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        tenant = await door.enter(request)
        card = model_card(context, tenant, name)
        if card is None:
            raise ModelNotFound(f"no model {name!r}", param="model")
        return json_answer(card)

    @app.get("/health")
    async def health() -> Response:
        return json_answer({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        if not context.replicas.ready:
            return json_answer({"status": "no replica yet"}, status=503)
        return json_answer({"status": "ready", "replicas": len(context.replicas.snapshots())})

    app.add_api_route("/-/healthz", ready, methods=["GET"])

    @app.get("/version")
    async def version() -> Response:
        return json_answer({"version": context.version})

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return json_answer(document())

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        await check_may_scrape(context.admin, request)
        return Response(context.metrics.exposition(), media_type=CONTENT_TYPE)

    app.include_router(build_admin_routes(context.admin))
    app.include_router(build_adapter_routes(context.admin))
    app.include_router(build_router_routes(context.admin))
    app.include_router(build_vllm_routes(context.admin))
    install_methods(app, context.config.cors_origins)
    app.add_middleware(RequestIdMiddleware, clock=context.clock)
    return app


def facts_of(context: FrontContext) -> ServerFacts:
    """What this server's OpenAPI document depends on."""
    codec = context.service.codec
    return ServerFacts(
        context.config,
        context.names.with_mixture,
        codec.vocab_size,
        knows_reasoning_effort=codec.knows_reasoning_effort,
        takes_empty_prompt=bool(codec.encode("")),
    )
