"""Checks of a Serve config file: Ray's schema, unknown keys, and the application's own config."""

from collections.abc import Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from cluster.config import AppConfig


def serve_config_problems(text: str) -> list[str]:
    """Return what is wrong with a Serve config given as YAML text."""
    config = yaml.safe_load(text)
    problems = list(_unknown_keys(config, ServeDeploySchema, "serveConfigV2"))
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        problems += [_place(problem) for problem in error.errors()]
    for application in config["applications"]:
        try:
            AppConfig.model_validate(application.get("args", {}))
        except ValidationError as error:
            problems += [f"args.{_place(problem)}" for problem in error.errors()]
    return problems


def _place(problem: Any) -> str:
    return f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"


def _unknown_keys(value: Any, model: type[BaseModel], path: str) -> Iterator[str]:
    """Yield the keys that Ray's schema would silently accept."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown_keys(item, model, f"{path}[{index}]")
        return
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        field = model.model_fields.get(key)
        if field is None:
            yield f"{path}.{key}: unknown key"
            continue
        nested = _model_in(field.annotation)
        if nested is not None:
            yield from _unknown_keys(item, nested, f"{path}.{key}")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
