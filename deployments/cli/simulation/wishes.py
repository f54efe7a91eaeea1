"""Turns the options of `braid simulate` into an experiment."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from cluster.config import AppConfig
from cluster.errors import ConfigError
from cluster.placement.cost.model import CostModel
from cluster.placement.cost.profile import read_profile
from cluster.placement.policy import ClusterPolicy
from cluster.placement.policy.contradictions import most_replicas
from cluster.placement.policy.policy_load import load_policy, parse_policy
from cluster.simulation.baselines.baseline_names import BASELINES
from cluster.simulation.report.recipe import ImportSource, LogSource, NamedSource, TraceSource
from cluster.simulation.report.trials import Column, policy_column
from cluster.simulation.spec import ReplicaSpec
from deployments.cli.simulation.cluster_facts import ClusterFacts

DEFAULT_TRACE = "diurnal,duration=400,period=400,mean=5,adapters=40"
"""A day in small: a valley and a peak, four tenants, more adapters than slots."""
DEFAULT_BASELINES = ("off", "least-loaded", "ray-serve-fitted")
ALL, NONE = "all", "none"
MOST_STEPS = 50
_LOG = re.compile(r".+\.jsonl(\.\d+)?(\.gz)?")
"""The name of a log, also of one that was turned over or packed."""
LONG_S = 2 * 3600.0
"""Seconds of a trace above which the simulated parts look and tell less often."""
COARSE = "; a long trace, so the controller looks each 10 s; replicas and fronts tell less often"
DEFAULT_MODEL, CURRENT_MODEL = "default", "current"


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy and what its column is called."""

    name: str
    policy: ClusterPolicy
    what: str


def sorted_files(files: Iterable[Path], logs: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return the policies among the files, and the logs among them after those given as logs."""
    policies: list[Path] = []
    found = list(logs)
    for path in files:
        (found if _LOG.fullmatch(path.name) else policies).append(path)
    return policies, found


def policy_in_force(facts: ClusterFacts | None) -> NamedPolicy:
    """Return the cluster's policy; without a cluster the default one."""
    if facts is None:
        return NamedPolicy("default", ClusterPolicy(), "the default policy: no cluster was asked")
    return NamedPolicy("in force", facts.policy, f"the policy in force at {facts.url}")


def given_policies(paths: Sequence[Path], defaults: ClusterPolicy | None) -> list[NamedPolicy]:
    """Read policy files; each column has its file's name.

    Args:
        defaults: the entries that a policy of the cluster need not have.

    Raises:
        ConfigError: a file is wrong, or two have one name.
    """
    found: dict[str, NamedPolicy] = {}
    for path in paths:
        if path.stem in found:
            raise ConfigError(
                f"{path}: another policy's column is called {path.stem!r} too; rename the file"
            )
        found[path.stem] = NamedPolicy(
            path.stem, load_policy(path, defaults), f"policy {path.name}"
        )
    return list(found.values())


def swept_policies(text: str, base: NamedPolicy) -> list[NamedPolicy]:
    """Return one policy for each value of ``PATH=LOW:HIGH:STEP`` or ``PATH=A,B,C``.

    Raises:
        ConfigError: it is not of that form, the path is not the policy's, or a value is refused.
    """
    path, equals, values = text.partition("=")
    if not equals or not path or not values:
        raise _bad_sweep(text)
    keys = path.split(".")
    found = []
    for value in _steps(text, values):
        tree: Any = _plain(value)
        for key in reversed(keys):
            tree = {key: tree}
        policy = parse_policy(
            json.dumps(tree).encode(), source=f"--sweep {text}", defaults=base.policy
        )
        name = f"{path}={value}"
        found.append(NamedPolicy(name, policy, f"{base.name}, with {path} {value}"))
    return found


def _steps(text: str, values: str) -> list[str]:
    if ":" not in values:
        return [value for value in values.split(",") if value] or [values]
    try:
        low, high, step = (Decimal(part) for part in values.split(":"))
    except (InvalidOperation, ValueError) as error:
        raise _bad_sweep(text) from error
    if not (low.is_finite() and high.is_finite() and step.is_finite()) or step <= 0 or high < low:
        raise _bad_sweep(text)
    count = int((high - low) / step) + 1
    if count > MOST_STEPS:
        raise ConfigError(
            f"--sweep {text}: {count} values, expected at most {MOST_STEPS}; take a larger step"
        )
    return [f"{(low + number * step).normalize():f}" for number in range(count)]


def _bad_sweep(text: str) -> ConfigError:
    return ConfigError(
        f"--sweep {text}: expected PATH=LOW:HIGH:STEP or PATH=A,B,C, "
        "for instance replicas.target=0.5:0.9:0.1"
    )


def _plain(value: str) -> Any:
    """Return a number, true, false or null as JSON has it, else the text itself."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def chosen_baselines(text: str | None) -> list[Column]:
    """Return the baselines' columns.

    Raises:
        ConfigError: one is not known.
    """
    names: Iterable[str]
    if text is None:
        names = DEFAULT_BASELINES
    elif text == ALL:
        names = BASELINES
    elif text == NONE:
        names = ()
    else:
        names = dict.fromkeys(name.strip() for name in text.split(","))
    columns = []
    for name in names:
        if name not in BASELINES:
            raise ConfigError(f'--baselines: "{name}" is not one{_nearest(name)}')
        baseline = BASELINES[name]
        columns.append(Column(baseline.name, baseline.what, baseline.change))
    return columns


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, list(BASELINES), n=1, cutoff=0.5)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; expected {ALL}, {NONE}, or some of {', '.join(BASELINES)}"


def chosen_columns(
    facts: ClusterFacts | None, paths: Sequence[Path], sweep: str | None, baselines: str | None
) -> tuple[Column, ...]:
    """Return all columns, the policy in force first.

    Raises:
        ConfigError: a policy, the sweep or a baseline is wrong.
    """
    force = policy_in_force(facts)
    given = given_policies(paths, None if facts is None else facts.defaults)
    swept = swept_policies(sweep, given[0] if given else force) if sweep is not None else []
    if baselines is None and (given or swept):
        baselines = NONE
    policies = [policy_column(p.name, p.policy, p.what) for p in (force, *given, *swept)]
    columns = (*policies, *chosen_baselines(baselines))
    names = [column.name for column in columns]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two columns are called {name!r}; rename the policy's file")
    return columns


def chosen_replicas(
    replicas: int | None, facts: ClusterFacts | None, policies: Sequence[ClusterPolicy]
) -> int:
    """Return the replicas at the start; those that a policy does not allow leave at once.

    Raises:
        ConfigError: more are asked for than any policy ever allows.
    """
    most = max(map(most_replicas, policies))
    if replicas is not None and replicas > most:
        raise ConfigError(
            f"--replicas {replicas}: no policy here allows more than {most}; give one with a "
            "larger replicas.max, or fewer replicas"
        )
    return replicas or (facts.replicas if facts else 0) or max(1, policies[0].replicas.min)


def chosen_source(
    trace: str | None,
    logs: Sequence[Path],
    published: tuple[str, Path] | None,
    calibrate: Sequence[Path],
    shape: ReplicaSpec,
) -> TraceSource:
    """Return the one source of requests that was asked for.

    Raises:
        ConfigError: more than one was.
    """
    asked = [
        name
        for name, given in (("--trace", trace), ("--log", logs), ("--import", published))
        if given
    ]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)}: expected one trace; leave the others out")
    if logs:
        return LogSource(tuple(logs))
    if published is not None:
        form, path = published
        return ImportSource(form, path, shape.engine.max_model_len)
    if trace is None and calibrate:
        return LogSource(tuple(calibrate))
    return NamedSource(trace or DEFAULT_TRACE)


def chosen_model(text: str | None, facts: ClusterFacts | None) -> tuple[CostModel, str]:
    """Return the costs, and where they are from.

    Raises:
        ConfigError: the cluster's are asked for and cannot be had, or a profile is wrong.
    """
    if text == CURRENT_MODEL or (text is None and facts is not None and facts.model is not None):
        if facts is None:
            raise ConfigError(
                "--model current: no cluster was asked; start one with `braid up`, name one with "
                "--url, or give --model default or a profile"
            )
        if facts.model is None:
            raise ConfigError(f"--model current: {facts.model_problem}")
        return facts.model, f"costs fitted at {facts.url}"
    if text in (None, DEFAULT_MODEL):
        return CostModel(), "default costs: SmolLM2-135M on two CPU cores"
    assert text is not None
    return read_profile(Path(text)).costs, f"costs of the profile {Path(text).name}"


def chosen_shape(slots: int | None, facts: ClusterFacts | None) -> ReplicaSpec:
    """Return the shape of a replica: the cluster's, else the defaults of `braid up`."""
    if facts is not None and facts.shape is not None:
        shape = facts.shape
    else:
        adapters = AppConfig().adapters
        shape = ReplicaSpec(
            slots=adapters.slots,
            adapter_bytes=adapters.memory_bytes,
            host_bytes=adapters.host_bytes,
            engine=AppConfig().engine,
        )
    if slots is None:
        return shape
    return replace(shape, slots=slots)
