"""The whole OpenAPI document."""

from typing import Any

from deployments.front.openapi.answer_schemas import answer_schemas
from deployments.front.openapi.api_operation import SECURITY
from deployments.front.openapi.bodies import ServerFacts, body_schemas
from deployments.front.openapi.operations import EXTRA_SCHEMAS, OPERATIONS


def openapi_document(version: str, facts: ServerFacts) -> dict[str, Any]:
    """Build the document of a front.

    Args:
        version: of the server.
        facts: what the schemas depend on.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation.description
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Braid",
            "version": version,
            "description": "OpenAI's API over one base model and many adapters.",
        },
        "paths": paths,
        "components": {
            "schemas": {**body_schemas(facts), **answer_schemas(), **EXTRA_SCHEMAS},
            "securitySchemes": SECURITY,
        },
    }
