"""vLLM's two routes for adapters, for tools that know them; here they act on the whole cluster."""

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from cluster.domain.adapter import SHARED_OWNER
from cluster.errors import AdapterSourceError
from deployments.front.admin.adapter_admin import NameChange
from deployments.front.admin.adapter_sources import source_of
from deployments.front.admin.adapter_wire import SourceBody, VllmLoadBody, VllmUnloadBody
from deployments.front.admin.admin_context import AdminContext


def build_vllm_routes(context: AdminContext) -> APIRouter:
    """Build both routes; they need an administrator's key."""
    routes = APIRouter(prefix="/v1")
    admin = context.adapter_admin

    @routes.post("/load_lora_adapter")
    async def load(request: Request) -> PlainTextResponse:
        """Add a shared adapter; ``load_inplace`` replaces one."""
        tenant = await context.door.enter_admin(request)
        body = await context.door.read_exact(request, tenant, VllmLoadBody)
        named = source_named(body.lora_path, admin.config.source_dir)
        source = source_of(named, admin.config, admin.hub_token)
        change = NameChange(body.lora_name)
        if body.load_inplace:
            change = NameChange(body.lora_name, expected=None)
        try:
            await admin.add(source, change, tenant.id)
        except AdapterSourceError as error:
            raise _explained(error, named) from error
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @routes.post("/unload_lora_adapter")
    async def unload(request: Request) -> PlainTextResponse:
        """Remove a shared adapter; answers when its memory is free."""
        tenant = await context.door.enter_admin(request)
        body = await context.door.read_exact(request, tenant, VllmUnloadBody)
        await admin.remove(SHARED_OWNER, body.lora_name, expected=None, force=False)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return routes


def _explained(error: AdapterSourceError, named: SourceBody) -> AdapterSourceError:
    """Explain the error of a repository that may have been meant as a folder."""
    if named.hub is None:
        return error
    return type(error)(
        f"lora_path: {named.hub[:100]!r} is not a folder under adapters.source_dir, and as a "
        f"repository of the hub it was not found: {error.message}",
        param="lora_path",
    )


def source_named(path: str, source_dir: Path | None) -> SourceBody:
    """Read a path under ``source_dir``, absolute or relative to it, a URL, or a repository's id."""
    if "://" in path:
        return SourceBody(url=path)
    if path.startswith("/"):
        if source_dir is not None and Path(path).is_relative_to(source_dir):
            path = str(Path(path).relative_to(source_dir))
        return SourceBody(folder=path)
    if path.count("/") == 1 and (source_dir is None or not (source_dir / path).is_dir()):
        return SourceBody(hub=path)
    return SourceBody(folder=path)
