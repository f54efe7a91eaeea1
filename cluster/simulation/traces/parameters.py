"""Types of the parameters of named traces, and their reading from the command line."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from cluster.errors import ConfigError
from cluster.simulation.traces.arrivals import MOST_CV

MOST = 1e9
Positive = Annotated[float, msgspec.Meta(gt=0, le=MOST)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Variation = Annotated[float, msgspec.Meta(ge=0, le=MOST_CV)]
Whole = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
WholeOrZero = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


def parse_named(text: str, names: Mapping[str, Callable[..., Any]]) -> tuple[str, dict[str, Any]]:
    """Split ``NAME[,key=value...]`` into a name and checked arguments.

    Raises:
        ConfigError: the name or a key is unknown, a key is given twice, or a value is wrong; the
            message names it.
    """
    name, *pairs = text.split(",")
    if name not in names:
        raise ConfigError(f'trace "{name}": not known{_near(name, list(names))}')
    function = names[name]
    known = [key for key in inspect.signature(function).parameters if key != "seed"]
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f'trace "{name}": "{pair}": expected key=value{_near(key, known)}')
        if key == "seed":
            raise ConfigError(f'trace "{name}": seed: not given here; use --seeds')
        if key not in known:
            raise ConfigError(f'trace "{name}": "{key}": no such parameter{_near(key, known)}')
        if key in arguments:
            raise ConfigError(f'trace "{name}": {key}: given twice; leave one out')
        arguments[key] = value
    return name, check_arguments(name, function, arguments)


def check_arguments(
    name: str, function: Callable[..., Any], arguments: Mapping[str, object]
) -> dict[str, Any]:
    """Convert and check arguments by the function's annotations; text becomes numbers.

    Raises:
        ConfigError: a value is wrong; the message names the parameter and what is expected.
    """
    types = get_type_hints(function, include_extras=True)
    checked = {}
    for key, value in arguments.items():
        try:
            checked[key] = msgspec.convert(value, types[key], strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f'trace "{name}": {key}={value}: {_expected(types[key])}') from error
    return checked


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"expected one of {', '.join(get_args(kind))}"
    number = "a whole number" if kind.__origin__ is int else "a number"
    bounds = kind.__metadata__[0]
    lower = f"above {bounds.gt}" if bounds.gt is not None else f"of at least {bounds.ge}"
    return f"expected {number} {lower} and at most {bounds.le:g}"


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else f"; expected one of {', '.join(known)}"
