"""``/admin/v1/adapters``: adding, switching and removing adapters while the cluster serves."""

from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationError

from cluster.adapters.registry.records import Name, name_id
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest, TenantId
from cluster.errors import AdapterNotFound, RequestError
from cluster.tenancy.tenants import Tenant
from deployments.front.adapter_sources import is_archive, source_of, upload_of
from deployments.front.adapter_wire import (
    AddBody,
    AliasBody,
    NameBody,
    PinBody,
    UploadParameters,
    adapter_card,
    generation_card,
    progress,
    staged_for,
)
from deployments.front.admin import admin_of
from deployments.front.body import read_body
from deployments.front.context import FrontContext
from deployments.front.json_answer import json_answer
from deployments.front.problem import invalid_body

B = TypeVar("B", bound=NameBody)
YES = frozenset({"1", "true", "yes"})
MAX_WAIT_S = 120.0
DIGEST_CHARACTERS = 64


def build_adapter_routes(context: FrontContext) -> APIRouter:
    """All of them need an administrator's key."""
    routes = APIRouter(prefix="/admin/v1/adapters")
    admin = context.adapter_admin
    registry = context.live.registry

    def card(name: Name) -> dict[str, Any]:
        return adapter_card(registry.view, name, context.replicas.holdings())

    async def body_of(request: Request, kind: type[B]) -> B:
        return await read_body(request, kind, context.config.max_body_bytes)

    async def add_from(request: Request, tenant: Tenant) -> Name:
        if is_archive(request):
            parameters = upload_parameters(request)
            wanted = parameters.wanted(parameters.name, replace=parameters.replace)
            return await admin.add(upload_of(request), wanted, tenant.id)
        body = await body_of(request, AddBody)
        wanted = body.wanted(body.name, replace=body.replace)
        return await admin.add(
            source_of(body.source, admin.config, admin.hub_token), wanted, tenant.id
        )

    @routes.post("")
    async def add(request: Request) -> Response:
        """Add an adapter, or replace one: a source as JSON, or an archive as the body."""
        tenant = admin_of(context, request)
        return json_answer(card(await add_from(request, tenant)), status=201)

    @routes.get("")
    async def list_adapters(request: Request) -> Response:
        """Every name, and every generation that no name points to."""
        admin_of(context, request)
        await context.live.catch_up()
        view = registry.view
        snapshots = context.replicas.holdings()
        pointed = {name.digest for name in view.names.values()}
        return json_answer(
            {
                "object": "list",
                "data": [card(name) for _, name in sorted(view.names.items())],
                "other_generations": [
                    generation_card(view, generation, snapshots)
                    for digest, generation in sorted(view.generations.items())
                    if digest not in pointed
                ],
                "registry": {
                    "epoch": view.version.epoch,
                    "version": view.version.number,
                    "age_s": registry.age_s,
                    "error": context.live.away,
                },
            }
        )

    @routes.get("/{name}")
    async def show(request: Request, name: str) -> Response:
        """One name or one generation; also what is being added for the name now."""
        admin_of(context, request)
        await context.live.catch_up()
        view, owner = registry.view, owner_of(request)
        snapshots = context.replicas.holdings()
        if is_digest(name):
            return json_answer(
                generation_card(view, view.generation(AdapterDigest(name)), snapshots)
            )
        adding = [
            {"generation": generation.digest, **progress(generation)}
            for generation in staged_for(view, name_id(owner, name))
        ]
        known = view.names.get(name_id(owner, name))
        if known is not None:
            return json_answer({**card(known), "adding": adding})
        if not adding:
            raise AdapterNotFound(f"there is no adapter {name!r}", param="name")
        answer = {"object": "adapter", "name": name, "owner": owner, "state": "adding"}
        return json_answer({**answer, "adding": adding})

    @routes.delete("/{name}")
    async def remove(request: Request, name: str) -> Response:
        """Remove a name, or a generation by its digest; answers when its memory is free."""
        admin_of(context, request)
        force = request.query_params.get("force", "").lower() in YES
        wait_s = wait_of(request)
        if is_digest(name):
            gone = await admin.remove_generation(AdapterDigest(name), force=force, wait_s=wait_s)
        else:
            expected = request.query_params.get("expected")
            gone = await admin.remove(
                owner_of(request),
                name,
                expected=None if expected is None else AdapterDigest(expected),
                force=force,
                wait_s=wait_s,
            )
        snapshots = context.replicas.holdings()
        view = registry.view
        waiting = [
            generation_card(view, view.generations[digest], snapshots)
            for digest, done in gone.items()
            if not done and digest in view.generations
        ]
        return json_answer(
            {
                "object": "adapter.deleted",
                "name": name,
                "deleted": True,
                "freed": [digest for digest, done in gone.items() if done],
                "waiting": waiting,
            },
            status=202 if waiting else 200,
        )

    @routes.post("/{name}/alias")
    async def alias(request: Request, name: str) -> Response:
        """Let a name, old or new, point to a generation that is there."""
        tenant = admin_of(context, request)
        body = await body_of(request, AliasBody)
        digest = AdapterDigest(body.generation)
        return json_answer(
            card(await admin.switch(digest, body.wanted(name, replace=True), tenant.id))
        )

    @routes.post("/{name}/rollback")
    async def roll_back(request: Request, name: str) -> Response:
        """Point a name to what it pointed to before."""
        tenant = admin_of(context, request)
        body = await body_of(request, NameBody)
        return json_answer(
            card(await admin.roll_back(body.owner, name, body.expected_digest, tenant.id))
        )

    @routes.post("/{name}/pin")
    async def pin(request: Request, name: str) -> Response:
        """Keep a name's generation on every replica, or no longer."""
        admin_of(context, request)
        body = await body_of(request, PinBody)
        return json_answer(card(await admin.pin(body.owner, name, body.pinned)))

    @routes.post("/{name}/verify")
    async def verify(request: Request, name: str) -> Response:
        """Read every byte of a generation's files and compare it with the digest."""
        admin_of(context, request)
        digest = AdapterDigest(name)
        if not is_digest(name):
            await context.live.catch_up()
            digest = registry.view.name(owner_of(request), name).digest
        await admin.verify(digest)
        return json_answer({"object": "adapter.verified", "generation": digest, "intact": True})

    return routes


def is_digest(name: str) -> bool:
    """Whether a path names a generation: an alias is never that long and hexadecimal."""
    return len(name) == DIGEST_CHARACTERS and set(name) <= set("0123456789abcdef")


def owner_of(request: Request) -> TenantId:
    """Whose name is meant: ``?tenant=``, else a shared one."""
    return TenantId(request.query_params.get("tenant") or SHARED_OWNER)


def wait_of(request: Request) -> float:
    """Seconds to wait for memory to be free: ``?wait_s=``, 30 by default.

    Raises:
        RequestError: no number from 0 to 120.
    """
    text = request.query_params.get("wait_s", "30")
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise RequestError(f"wait_s: expected 0 to {MAX_WAIT_S:g}, found {text!r}", param="wait_s")
    return wait_s


def upload_parameters(request: Request) -> UploadParameters:
    """The query of an upload.

    Raises:
        RequestError: fields are wrong; the message names each.
    """
    query: dict[str, Any] = dict(request.query_params)
    if "grants" in query:
        query["grants"] = tuple(query["grants"].split(","))
    try:
        return UploadParameters.model_validate(query)
    except ValidationError as error:
        raise invalid_body(error) from error
