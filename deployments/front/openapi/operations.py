"""The operations of the document: one row for each method of each path."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from deployments.front.admin.adapter_sources import ARCHIVE_TYPES
from deployments.front.admin.adapter_wire import UploadParameters
from deployments.front.admin.router_routes import RouterBody
from deployments.front.http.query import OwnerQuery, RemoveQuery
from deployments.front.openapi.answer_schemas import ANY_OBJECT, Schema, ref

JSON = "application/json"
EVENTS = "text/event-stream"
PLAIN = "text/plain"

REFUSED = {
    400: "A field is wrong, unknown or missing.",
    401: "No key, or an unknown one.",
    404: "There is no such thing, or it is another tenant's.",
    405: "The path does not take this method.",
    413: "The body is too large.",
    429: "A limit is reached; the header retry-after says until when.",
    500: "A defect.",
    503: "Try again.",
    504: "The request took too long.",
}
"""Errors of every operation that needs a key."""
OPEN = {405: REFUSED[405], 500: REFUSED[500], 503: REFUSED[503]}
FORBIDDEN = {403: "The key has no right to this path."}
CONFLICT = {409: "Something else was changed meanwhile, or is in the way."}
LENGTH = {411: "The length of the body must be announced."}
HUB = {502: "Where the adapter comes from does not answer."}


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """One method of one path.

    Args:
        method: in lower case.
        path: as OpenAPI writes it.
        summary: one sentence.
        answers: (status, schema or media type's own) of success.
        body: name of the schema of its JSON body.
        query: the model of its parameters.
        archive: the body may be an archive instead.
        streams: the answer may be a stream of events.
        media: type of the answer.
        access: "open", "tenant" or "admin".
    """

    method: str
    path: str
    summary: str
    answers: dict[int, str] = field(default_factory=dict)
    body: str = ""
    query: type[BaseModel] | None = None
    archive: bool = False
    streams: bool = False
    media: str = JSON
    access: str = "tenant"

    @property
    def description(self) -> Schema:
        """The operation object."""
        found: Schema = {
            "summary": self.summary,
            "operationId": _operation_id(self.method, self.path),
            "parameters": [*_path_parameters(self.path), *_query_parameters(self.query)],
            "responses": self._responses(),
            "security": [] if self.access == "open" else [{name: []} for name in SECURITY],
        }
        if self.body:
            content: Schema = {JSON: {"schema": ref(self.body)}}
            if self.archive:
                content |= {kind: {"schema": {}} for kind in sorted(ARCHIVE_TYPES)}
            found["requestBody"] = {"required": True, "content": content}
        return found

    def _responses(self) -> Schema:
        found: Schema = {}
        for status, name in self.answers.items():
            schema = ref(name) if self.media == JSON else {"type": "string"}
            content: Schema = {self.media: {"schema": schema}}
            if self.streams:
                content[EVENTS] = {}  # each event is JSON, and the last one is [DONE]
            found[str(status)] = {"description": "Success.", "content": content}
        refused = OPEN if self.access == "open" else dict(REFUSED)
        if self.access == "admin":
            refused = {**refused, **FORBIDDEN, **CONFLICT, **LENGTH, **HUB}
        elif self.body:
            refused = {**refused, **CONFLICT}
        for status, why in sorted(refused.items()):
            if str(status) not in found:
                content = {JSON: {"schema": ref("Error")}}
                found[str(status)] = {"description": why, "content": content}
        return found


SECURITY: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}

ADAPTERS = "/admin/v1/adapters"
ROUTERS = "/admin/v1/routers"

OPERATIONS = (
    ApiOperation(
        "post",
        "/v1/chat/completions",
        "Answer a conversation.",
        {200: "ChatCompletion"},
        body="ChatBody",
        streams=True,
    ),
    ApiOperation(
        "post",
        "/v1/completions",
        "Complete a prompt.",
        {200: "Completion"},
        body="CompletionBody",
        streams=True,
    ),
    ApiOperation("post", "/v1/route", "Decide only.", {200: "Decision"}, body="RouteBody"),
    ApiOperation("get", "/v1/decisions/{decision_id}", "Show a decision.", {200: "Decision"}),
    ApiOperation("get", "/v1/models", "List models.", {200: "ModelList"}),
    ApiOperation("get", "/v1/models/{name}", "Show a model.", {200: "Model"}),
    ApiOperation("get", "/health", "Say that the process lives.", {200: "Status"}, access="open"),
    ApiOperation(
        "get", "/ready", "Count the replicas.", {200: "Status", 503: "Status"}, access="open"
    ),
    ApiOperation("get", "/-/healthz", "As /ready.", {200: "Status", 503: "Status"}, access="open"),
    ApiOperation("get", "/version", "Say the version.", {200: "Version"}, access="open"),
    ApiOperation("get", "/openapi.json", "Show this document.", {200: "Document"}, access="open"),
    ApiOperation("get", "/metrics", "Show metrics.", {200: ""}, media=PLAIN, access="open"),
    ApiOperation(
        "get", "/admin/v1/placement", "Show the placement.", {200: "Placement"}, access="admin"
    ),
    ApiOperation(
        "get", "/admin/v1/model", "Show the costs in force.", {200: "CostModel"}, access="admin"
    ),
    ApiOperation(
        "get", "/admin/v1/residency", "Show who holds what.", {200: "Residency"}, access="admin"
    ),
    ApiOperation(
        "get", "/admin/v1/integrity", "Check the books.", {200: "Integrity"}, access="admin"
    ),
    ApiOperation(
        "get", "/admin/v1/status", "Show everything.", {200: "ClusterStatus"}, access="admin"
    ),
    ApiOperation("get", ADAPTERS, "List adapters.", {200: "AdapterList"}, access="admin"),
    ApiOperation(
        "post",
        ADAPTERS,
        "Add or replace an adapter; of an archive, the query says what JSON says else.",
        {201: "Adapter"},
        body="AddBody",
        query=UploadParameters,
        archive=True,
        access="admin",
    ),
    ApiOperation(
        "get",
        f"{ADAPTERS}/{{name}}",
        "Show a name, or a version by its digest.",
        {200: "AdapterOrVersion"},
        query=OwnerQuery,
        access="admin",
    ),
    ApiOperation(
        "delete",
        f"{ADAPTERS}/{{name}}",
        "Remove a name, or a version by its digest.",
        {200: "AdapterDeleted", 202: "AdapterDeleted"},
        query=RemoveQuery,
        access="admin",
    ),
    ApiOperation(
        "post",
        f"{ADAPTERS}/{{name}}/switch",
        "Point a name to a version.",
        {200: "Adapter"},
        body="AliasBody",
        access="admin",
    ),
    ApiOperation(
        "post",
        f"{ADAPTERS}/{{name}}/rollback",
        "Point a name to what it pointed to before.",
        {200: "Adapter"},
        body="NameBody",
        access="admin",
    ),
    ApiOperation(
        "post",
        f"{ADAPTERS}/{{name}}/pin",
        "Keep a name's version on every replica.",
        {200: "Adapter"},
        body="PinBody",
        access="admin",
    ),
    ApiOperation(
        "post",
        f"{ADAPTERS}/{{name}}/verify",
        "Compare a version's files with its digest.",
        {200: "AdapterVerified"},
        query=OwnerQuery,
        access="admin",
    ),
    ApiOperation("get", ROUTERS, "List routers.", {200: "RouterList"}, access="admin"),
    ApiOperation(
        "post",
        ROUTERS,
        "Add or replace a router; of an archive, the query says what JSON says else.",
        {201: "Router"},
        body="RouterBody",
        query=RouterBody,
        archive=True,
        access="admin",
    ),
    ApiOperation("get", f"{ROUTERS}/{{name}}", "Show a router.", {200: "Router"}, access="admin"),
    ApiOperation(
        "delete",
        f"{ROUTERS}/{{name}}",
        "Remove a router.",
        {200: "RouterDeleted"},
        access="admin",
    ),
    ApiOperation(
        "post",
        "/v1/load_lora_adapter",
        "Add a shared adapter, as vLLM does.",
        {200: ""},
        body="VllmLoadBody",
        media=PLAIN,
        access="admin",
    ),
    ApiOperation(
        "post",
        "/v1/unload_lora_adapter",
        "Remove a shared adapter, as vLLM does.",
        {200: ""},
        body="VllmUnloadBody",
        media=PLAIN,
        access="admin",
    ),
)

EXTRA_SCHEMAS: dict[str, Schema] = {
    "Document": ANY_OBJECT,
    "AdapterOrVersion": {"anyOf": [ref("Adapter"), ref("AdapterVersion")]},
}


def _operation_id(method: str, path: str) -> str:
    words = [part.strip("{}") for part in path.split("/") if part]
    return "_".join([method, *words]).replace("-", "_").replace(".", "_")


def _path_parameters(path: str) -> list[Schema]:
    return [
        {
            "name": part[1:-1],
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        for part in path.split("/")
        if part.startswith("{")
    ]


def _query_parameters(model: type[BaseModel] | None) -> list[Schema]:
    """Describe each field of a query. Null cannot be written in a query: it is left out."""
    if model is None:
        return []
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    found = []
    for name, schema in properties.items():
        written = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
        kept = {k: v for k, v in written[0].items() if k not in ("default", "title")}
        parameter: Schema = {"name": name, "in": "query", "required": False, "schema": kept}
        if kept.get("type") == "array":
            parameter |= {"style": "form", "explode": False}
        if kept.get("type") == "object":
            parameter.pop("schema")
            parameter["content"] = {JSON: {"schema": kept}}
        found.append(parameter)
    return found
