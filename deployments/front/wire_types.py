"""The base of all bodies, and the types that their fields share."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from cluster.errors import RequestError


class Body(BaseModel):
    """Refuses what its schema does not know, and takes no text for a number nor 0 for false."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


def _whole(value: object) -> object:
    """Take 16.0 for 16: JSON knows one kind of number, and some clients write it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""An integer, also where it is written with a fraction of zero."""


def field_error(field: str, message: str) -> RequestError:
    """An error that names the field first, as all that concern one do."""
    return RequestError(f"{field}: {message}", param=field)
