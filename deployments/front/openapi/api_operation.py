"""Describes one method of one path as OpenAPI does."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from deployments.front.admin.adapter_sources import ARCHIVE_TYPES
from deployments.front.openapi.answer_schemas import Schema, ref

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
SECURITY: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
}


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
