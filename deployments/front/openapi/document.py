"""The whole OpenAPI document."""

from collections.abc import Sequence
from typing import Any

from cluster.config import FrontConfig
from deployments.front.openapi.answers import answer_schemas
from deployments.front.openapi.bodies import body_schemas
from deployments.front.openapi.operations import EXTRA_SCHEMAS, OPERATIONS, SECURITY


def openapi_document(version: str, limits: FrontConfig, bases: Sequence[str]) -> dict[str, Any]:
    """The document of a front.

    Args:
        version: of the server.
        limits: bounds that the front's configuration sets.
        bases: values of ``model`` that a mixture may go with.
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
            "schemas": {**body_schemas(limits, bases), **answer_schemas(), **EXTRA_SCHEMAS},
            "securitySchemes": SECURITY,
        },
    }
