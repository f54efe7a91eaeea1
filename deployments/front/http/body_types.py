"""Defines the base of all bodies, and the types that their fields share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from cluster.adapters.catalog import ALIAS_PATTERN
from cluster.errors import RequestError
from deployments.front.http.limits import (
    MAX_LIST_ITEMS,
    MAX_NAME_CHARS,
    MAX_STOP_CHARS,
    MAX_TEXT_CHARS,
)

NameText = Annotated[str, Field(max_length=MAX_NAME_CHARS)]
ShortText = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
FEW = Field(max_length=MAX_LIST_ITEMS, fail_fast=True)


class Body(BaseModel):
    """Refuses what its schema does not know, and takes no text for a number nor 0 for false."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


def _whole(value: object) -> object:
    """Take 16.0 for 16: JSON knows one kind of number, and some clients write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""Behind an integer's bounds: it may be written with a fraction of zero."""


def _all_whole(values: object) -> object:
    """Call ``_whole`` on a list's items; a list of integers alone is recognised in one pass."""
    if not isinstance(values, list) or float not in set(map(type, values)):
        return values
    return [_whole(value) for value in values]


ALL_WHOLE = BeforeValidator(_all_whole)
"""Behind the bounds of a list of integers."""


def _must_be_off(value: bool) -> bool:
    if value:
        raise ValueError("not served: expected false or null")
    return value


Off = Annotated[bool, AfterValidator(_must_be_off), WithJsonSchema({"const": False})] | None
"""A switch that can only be off. A literal would take 0 for false."""


NameToAdd = Annotated[NameText, WithJsonSchema({"type": "string", "pattern": f"^{ALIAS_PATTERN}$"})]
"""Checked where it is added, with a code of its own."""


def field_error(field: str, message: str) -> RequestError:
    """Return an error whose message names the field first."""
    return RequestError(f"{field}: {message}", param=field)
