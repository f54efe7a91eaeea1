"""Sources of adapters, as an administrator names them."""

from starlette.requests import Request

from cluster.adapters.sources import (
    AdapterSource,
    FolderSource,
    HubSource,
    UploadSource,
    UrlSource,
)
from cluster.config import AdapterConfig
from cluster.errors import AdapterSourceRefused, RequestError
from deployments.front.admin.adapter_wire import SourceBody

ARCHIVE_TYPES = frozenset(
    {
        "application/x-tar",
        "application/tar",
        "application/gzip",
        "application/x-gzip",
        "application/x-gtar",
        "application/x-tgz",
        "application/zip",
        "application/x-zip-compressed",
        "application/octet-stream",
    }
)
"""Holds the content types of archives; an archive's format is found out from its bytes."""
JSON_TYPES = frozenset({"", "application/json", "text/plain", "application/x-www-form-urlencoded"})
"""The last is what curl says of any data."""


def source_of(
    body: SourceBody, config: AdapterConfig, hub_token: str | None = None
) -> AdapterSource:
    """Return the source that a body names; nothing is opened yet.

    Raises:
        AdapterSourceRefused: this kind of source is not configured.
    """
    if body.folder is not None:
        if config.source_dir is None:
            raise AdapterSourceRefused(
                "adapters.source_dir is not configured, so no folder can be named; upload it "
                "instead",
                param="source",
            )
        return FolderSource(config.source_dir, body.folder)
    if body.hub is not None:
        if not config.source_hub:
            raise AdapterSourceRefused("adapters.source_hub is off", param="source")
        return HubSource(body.hub, body.revision, endpoint=config.hub_endpoint, token=hub_token)
    return UrlSource(body.url or "", config.source_urls)


def upload_of(request: Request) -> AdapterSource:
    """Return the archive that is a request's body, as it arrives.

    Raises:
        RequestError: its announced length is not a number.
    """
    declared = request.headers.get("content-length")
    if declared is not None and not declared.isdecimal():
        raise RequestError(f"content-length: {declared!r} is not a number")
    length = None if declared is None else int(declared)
    return UploadSource(request.stream(), declared=length)


def is_archive(request: Request) -> bool:
    """Report whether the body is an archive, by its declared type; else it is JSON.

    Raises:
        RequestError: it is declared as something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ARCHIVE_TYPES | JSON_TYPES:
        raise RequestError(
            f"content-type: expected application/json or, for an archive, application/x-tar, "
            f"application/gzip, application/zip or application/octet-stream, found {kind}"
        )
    return kind in ARCHIVE_TYPES
