"""Serves Braid's own routes next to OpenAI's: decide a prompt, and look a decision up."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cluster.errors import DecisionNotFound
from deployments.front.entry.door import Door
from deployments.front.http.json_answer import json_answer
from deployments.front.openai.prompt_requests import route_request
from deployments.front.openai.wire import RouteBody
from deployments.front.requests.explain import decision_body
from deployments.front.requests.prompt_request import Endpoint
from deployments.front.requests.request_service import RequestService
from deployments.front.telemetry.request_log import current_record


class DecisionRoutes:
    """Serves decisions without generating."""

    def __init__(self, service: RequestService, door: Door) -> None:
        self._service = service
        self._door = door

    def router(self) -> APIRouter:
        """Return the routes, to be included in an application."""
        routes = APIRouter(prefix="/v1")
        routes.add_api_route("/route", self.route, methods=["POST"])
        routes.add_api_route("/decisions/{decision_id}", self.decision, methods=["GET"])
        return routes

    async def route(self, request: Request) -> Response:
        """Decide as a completion of the same prompt would be decided."""
        tenant = await self._door.enter(request)
        body = await self._door.read(request, tenant, RouteBody)
        current_record().asks(Endpoint.ROUTE, body.model, stream=False)
        decided = await self._service.route(tenant, route_request(body))
        return json_answer(
            decision_body(
                decided.decision,
                decided.source,
                decided.store_state.value,
                explain=bool(body.explain),
            )
        )

    async def decision(self, request: Request, decision_id: str) -> Response:
        """Return one of the tenant's decisions by its id."""
        tenant = await self._door.enter(request)
        found = await self._service.routing.get(tenant.id, decision_id)
        if found.tenant != tenant.id:
            raise DecisionNotFound(f"no decision {decision_id} is kept", param="id")
        return json_answer(decision_body(found, found.source, None))
