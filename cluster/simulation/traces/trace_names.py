"""All traces that have a name, and how the command line asks for one."""

from collections.abc import Callable, Iterator, Mapping

from cluster.errors import ConfigError
from cluster.simulation.trace import TraceRequest
from cluster.simulation.traces.asking import AdapterNames, OneByPopularity
from cluster.simulation.traces.imports.formats import (
    parse_azure,
    parse_burstgpt,
    parse_mooncake,
)
from cluster.simulation.traces.imports.hours import (
    AzureService,
    hour_like_azure,
    hour_like_burstgpt,
    hour_like_mooncake,
)
from cluster.simulation.traces.imports.imported import (
    ImportMapping,
    PublishedRequest,
    import_requests,
)
from cluster.simulation.traces.parameters import (
    NotNegative,
    Positive,
    Whole,
    check_arguments,
    parse_named,
)
from cluster.simulation.traces.popularity import zipf
from cluster.simulation.traces.rate_traces import (
    bursty,
    constant,
    diurnal,
    flash_crowd,
    mmpp,
    square,
)
from cluster.simulation.traces.set_traces import (
    adversary,
    drifting,
    lasting,
    moving_hot_set,
    pair_sets,
    system_prompts,
    widening,
)

NamedTrace = Callable[..., Iterator[TraceRequest]]
"""Called with ``seed`` and ``duration`` (seconds), and its parameters by name."""


def azure_hour(
    seed: int,
    duration: Positive = 3600.0,
    *,
    service: AzureService = "conversation",
    adapters: Whole = 40,
    s: NotNegative = 1.0,
    tenants: Whole = 8,
    speed: Positive = 1.0,
    tokens: Positive = 0.0625,
) -> Iterator[TraceRequest]:
    """Import an hour in Azure's format, made from published shapes."""
    lines = hour_like_azure(seed, service=service, duration_s=duration * speed)
    return _imported(
        parse_azure(lines, "azure-hour"), "azure-hour", seed, adapters, s, tenants, speed, tokens
    )


def burstgpt_hour(
    seed: int,
    duration: Positive = 3600.0,
    *,
    adapters: Whole = 40,
    s: NotNegative = 1.0,
    tenants: Whole = 8,
    speed: Positive = 1.0,
    tokens: Positive = 0.125,
) -> Iterator[TraceRequest]:
    """Import an hour in BurstGPT's format, made from published shapes."""
    lines = hour_like_burstgpt(seed, duration_s=duration * speed)
    found = parse_burstgpt(lines, "burstgpt-hour")
    return _imported(found, "burstgpt-hour", seed, adapters, s, tenants, speed, tokens)


def mooncake_hour(
    seed: int,
    duration: Positive = 3600.0,
    *,
    adapters: Whole = 40,
    s: NotNegative = 1.0,
    tenants: Whole = 8,
    speed: Positive = 1.0,
    tokens: Positive = 0.03125,
) -> Iterator[TraceRequest]:
    """Import an hour in Mooncake's format, made from published shapes."""
    lines = hour_like_mooncake(seed, duration_s=duration * speed)
    found = parse_mooncake(lines, "mooncake-hour")
    return _imported(found, "mooncake-hour", seed, adapters, s, tenants, speed, tokens)


NAMED_TRACES: Mapping[str, NamedTrace] = {
    "constant": constant,
    "bursty": bursty,
    "mmpp": mmpp,
    "square": square,
    "diurnal": diurnal,
    "flash-crowd": flash_crowd,
    "lasting": lasting,
    "pairs": pair_sets,
    "moving-hot-set": moving_hot_set,
    "widening": widening,
    "drifting": drifting,
    "adversary": adversary,
    "system-prompts": system_prompts,
    "azure-hour": azure_hour,
    "burstgpt-hour": burstgpt_hour,
    "mooncake-hour": mooncake_hour,
}


def named_trace(text: str, seed: int, duration_s: float | None = None) -> Iterator[TraceRequest]:
    """Make the trace that ``NAME[,key=value...]`` says; equal arguments give equal requests.

    Args:
        text: a name of ``NAMED_TRACES``, and parameters that differ from their defaults.
        seed: of everything that is drawn.
        duration_s: seconds; None: the trace's own, or ``duration`` of ``text``.

    Raises:
        ConfigError: the name, a parameter or its value is wrong; the message names it.
    """
    name, arguments = parse_named(text, NAMED_TRACES)
    function = NAMED_TRACES[name]
    if duration_s is not None:
        if "duration" in arguments:
            raise ConfigError(f'trace "{name}": duration: given twice; leave one out')
        arguments |= check_arguments(name, function, {"duration": duration_s})
    try:
        return function(seed, **arguments)
    except ValueError as error:
        raise ConfigError(f'trace "{name}": {error}') from error


def _imported(
    found: Iterator[PublishedRequest],
    source: str,
    seed: int,
    adapters: int,
    s: float,
    tenants: int,
    speed: float,
    tokens: float,
) -> Iterator[TraceRequest]:
    asking = OneByPopularity(zipf(adapters, s), AdapterNames(tenants))
    mapping = ImportMapping(asking, seed, speed=speed, tokens=tokens)
    return iter(import_requests(found, mapping, source).requests)
