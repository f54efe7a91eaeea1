"""``/admin/v1/adapters``: adding, switching and removing adapters while the cluster serves."""

from collections.abc import Container
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response

from cluster.adapters.registry.records import Name, name_id
from cluster.adapters.registry.registry_view import EVERYONE
from cluster.domain.adapter import SHARED_OWNER
from cluster.domain.ids import AdapterDigest
from cluster.errors import AdapterNotFound, RequestError
from cluster.tenancy.tenants import Tenant
from deployments.front.admin.adapter_admin import NameChange
from deployments.front.admin.adapter_sources import is_archive, source_of, upload_of
from deployments.front.admin.adapter_wire import (
    AddBody,
    AliasBody,
    NameBody,
    PinBody,
    UploadParameters,
    adapter_card,
    progress,
    staged_for,
    version_card,
)
from deployments.front.admin.admin_context import AdminContext
from deployments.front.http.json_answer import json_answer
from deployments.front.http.query import NoQuery, OwnerQuery, RemoveQuery, read_query, refuse_body

B = TypeVar("B", bound=NameBody)
DIGEST_CHARACTERS = 64


def build_adapter_routes(context: AdminContext) -> APIRouter:
    """Build the routes; all of them need an administrator's key."""
    routes = APIRouter(prefix="/admin/v1/adapters")
    admin = context.adapter_admin
    registry = context.adapters.registry

    def card(name: Name) -> dict[str, Any]:
        return adapter_card(registry.view, name, context.replicas.holdings())

    async def body_of(request: Request, tenant: Tenant, kind: type[B]) -> B:
        return await context.door.read_exact(request, tenant, kind)

    def known(change: NameChange) -> NameChange:
        check_tenants(change, {tenant.id for tenant in context.tenants.tenants})
        return change

    async def add_from(request: Request, tenant: Tenant) -> Name:
        if is_archive(request):
            parameters = upload_parameters(request)
            change = known(parameters.change(parameters.name, replace=parameters.replace))
            source, base_check = upload_of(request), parameters.base_check
            return await admin.add(source, change, tenant.id, base_check)
        body = await body_of(request, tenant, AddBody)
        change = known(body.change(body.name, replace=body.replace))
        source = source_of(body.source, admin.config, admin.hub_token)
        return await admin.add(source, change, tenant.id, body.base_check)

    @routes.post("")
    async def add(request: Request) -> Response:
        """Add an adapter, or replace one: a source as JSON, or an archive as the body."""
        tenant = await context.door.enter_admin(request)
        return json_answer(card(await add_from(request, tenant)), status=201)

    @routes.get("")
    async def list_adapters(request: Request) -> Response:
        """List every name, and every version that no name points to."""
        await context.door.enter_admin(request)
        read_query(request, NoQuery)
        await context.adapters.sync()
        view = registry.view
        snapshots = context.replicas.holdings()
        pointed = {name.digest for name in view.names.values()}
        return json_answer(
            {
                "object": "list",
                "data": [card(name) for _, name in sorted(view.names.items())],
                "other_versions": [
                    version_card(view, version, snapshots)
                    for digest, version in sorted(view.versions.items())
                    if digest not in pointed
                ],
                "registry": {
                    "epoch": view.revision.epoch,
                    "revision": view.revision.number,
                    "age_s": registry.age_s,
                    "error": context.adapters.away,
                },
            }
        )

    @routes.get("/{name}")
    async def show(request: Request, name: str) -> Response:
        """Show one name or one version; also what is being added for the name now."""
        await context.door.enter_admin(request)
        owner = read_query(request, OwnerQuery).owner
        await context.adapters.sync()
        view = registry.view
        snapshots = context.replicas.holdings()
        if is_digest(name):
            return json_answer(version_card(view, view.version(AdapterDigest(name)), snapshots))
        adding = [
            {"version": version.digest, **progress(version)}
            for version in staged_for(view, name_id(owner, name))
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
        """Remove a name, or a version by its digest; answers when its memory is free."""
        await context.door.enter_admin(request)
        query = read_query(request, RemoveQuery)
        await refuse_body(request)
        if is_digest(name):
            check_version_query(query)
            gone = await admin.retire_version(
                AdapterDigest(name), force=query.force, wait_s=query.wait_s
            )
        else:
            gone = await admin.remove(
                query.owner,
                name,
                expected=query.expected_digest,
                force=query.force,
                wait_s=query.wait_s,
            )
        snapshots = context.replicas.holdings()
        view = registry.view
        waiting = [
            version_card(view, view.versions[digest], snapshots)
            for digest, done in gone.items()
            if not done and digest in view.versions
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

    @routes.post("/{name}/switch")
    async def alias(request: Request, name: str) -> Response:
        """Switch a name, old or new, to a version that is stored."""
        tenant = await context.door.enter_admin(request)
        body = await body_of(request, tenant, AliasBody)
        digest = AdapterDigest(body.version)
        return json_answer(
            card(await admin.switch(digest, known(body.change(name, replace=True)), tenant.id))
        )

    @routes.post("/{name}/rollback")
    async def roll_back(request: Request, name: str) -> Response:
        """Switch a name back to the version before."""
        tenant = await context.door.enter_admin(request)
        body = await body_of(request, tenant, NameBody)
        return json_answer(
            card(await admin.roll_back(body.owner, name, body.expected_digest, tenant.id))
        )

    @routes.post("/{name}/pin")
    async def pin(request: Request, name: str) -> Response:
        """Keep a name's version on every replica, or no longer."""
        tenant = await context.door.enter_admin(request)
        body = await body_of(request, tenant, PinBody)
        return json_answer(card(await admin.pin(body.owner, name, body.pinned)))

    @routes.post("/{name}/verify")
    async def verify(request: Request, name: str) -> Response:
        """Read every byte of a version's files and compare it with the digest."""
        await context.door.enter_admin(request)
        query = read_query(request, OwnerQuery)
        await refuse_body(request)
        digest = AdapterDigest(name)
        if not is_digest(name):
            await context.adapters.sync()
            digest = registry.view.name(query.owner, name).digest
        await admin.verify(digest)
        return json_answer({"object": "adapter.verified", "version": digest, "intact": True})

    return routes


def is_digest(name: str) -> bool:
    """Report whether a path names a version: an alias is never that long and hexadecimal."""
    return len(name) == DIGEST_CHARACTERS and set(name) <= set("0123456789abcdef")


def check_tenants(change: NameChange, tenants: Container[str]) -> None:
    """Refuse a name for tenants that do not exist.

    Raises:
        RequestError: with the first of them.
    """
    if change.owner != SHARED_OWNER and change.owner not in tenants:
        raise RequestError(f"tenant: there is no tenant {change.owner!r}", param="tenant")
    for grant in change.grants or ():
        if grant != EVERYONE and grant not in tenants:
            raise RequestError(f"grants: there is no tenant {grant!r}", param="grants")


def check_version_query(query: RemoveQuery) -> None:
    """Refuse what is said of a name where a version is meant.

    Raises:
        RequestError: with the parameter.
    """
    for param in ("tenant", "expected"):
        if getattr(query, param) is not None:
            raise RequestError(f"{param}: goes with a name, not with a version", param=param)


def upload_parameters(request: Request) -> UploadParameters:
    """Read the query of an upload.

    Raises:
        RequestError: fields are wrong; the message names each.
    """
    grants = request.query_params.get("grants")
    given = {} if grants is None else {"grants": tuple(grants.split(","))}
    return read_query(request, UploadParameters, **given)
