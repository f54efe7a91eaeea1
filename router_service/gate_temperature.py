"""Bounds the temperature by which a gate divides its logits."""

from typing import Annotated

from pydantic import Field

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-6, 1e6
GateTemperature = Annotated[float, Field(ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE)]
"""Beyond these bounds the quotients leave what half precision holds."""
