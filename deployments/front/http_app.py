"""Assembles the HTTP application of one front process."""

from collections.abc import Iterable
from functools import cache

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response

from deployments.front.admin.adapter_routes import build_adapter_routes
from deployments.front.admin.admin_routes import build_admin_routes, check_may_scrape
from deployments.front.admin.pick_routes import build_pick_routes
from deployments.front.admin.policy_routes import build_policy_routes
from deployments.front.admin.router_routes import build_router_routes
from deployments.front.admin.vllm_routes import build_vllm_routes
from deployments.front.front_context import FrontContext
from deployments.front.http import problem
from deployments.front.http.json_answer import json_answer
from deployments.front.http.methods import install_methods
from deployments.front.http.request_id import RequestIdMiddleware
from deployments.front.openai.decision_routes import DecisionRoutes
from deployments.front.openai.models import ModelCards
from deployments.front.openai.routes import OpenAIRoutes
from deployments.front.openapi.bodies import ServerFacts
from deployments.front.openapi.document import openapi_document
from deployments.front.telemetry.metrics import CONTENT_TYPE


def build_http_app(context: FrontContext) -> FastAPI:
    """Return the ASGI application: all routes, their errors and middlewares."""
    app = FastAPI(
        title="Braid",
        version=context.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # it would send keys where the header Host says, without TLS
    )
    problem.install(app)
    for routes in _all_routes(context):
        app.include_router(routes)
    install_methods(app, context.config.cors_origins)
    app.add_middleware(RequestIdMiddleware, clock=context.clock)
    return app


def _all_routes(context: FrontContext) -> Iterable[APIRouter]:
    service, door = context.service, context.door
    cards = ModelCards(service, context.directory, context.started_at)
    yield OpenAIRoutes(service, door, cards, context.clock).router()
    yield DecisionRoutes(service, door).router()
    yield _server_routes(context)
    yield build_admin_routes(context.admin)
    yield build_pick_routes(context.admin)
    yield build_policy_routes(context.admin)
    yield build_adapter_routes(context.admin)
    yield build_router_routes(context.admin)
    yield build_vllm_routes(context.admin)


def _server_routes(context: FrontContext) -> APIRouter:
    """Return the routes about the server itself: probes, version, description, metrics."""
    routes = APIRouter()
    document = cache(lambda: openapi_document(context.version, facts_of(context)))

    @routes.get("/health")
    async def health() -> Response:
        return json_answer({"status": "ok"})

    @routes.get("/ready")
    @routes.get("/-/healthz")
    async def ready() -> Response:
        if not context.holding.serving:
            return json_answer({"status": "no replica yet"}, status=503)
        return json_answer({"status": "ready", "replicas": len(context.replicas.snapshots())})

    @routes.get("/version")
    async def version() -> Response:
        return json_answer({"version": context.version})

    @routes.get("/openapi.json")
    async def openapi() -> Response:
        return json_answer(document())

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        await check_may_scrape(context.admin, request)
        return Response(context.metrics.exposition(), media_type=CONTENT_TYPE)

    return routes


def facts_of(context: FrontContext) -> ServerFacts:
    """Return what this server's OpenAPI document depends on."""
    codec = context.service.codec
    return ServerFacts(
        context.config,
        context.service.names.with_mixture,
        codec.vocab_size,
        knows_reasoning_effort=codec.knows_reasoning_effort,
        takes_empty_prompt=bool(codec.encode("")),
    )
