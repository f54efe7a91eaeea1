"""Any change of one entry of a policy gives a policy, or is refused with a path that is there."""

import copy
import re
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.placement.policy.policy_load import examine_policy, parse_policy
from cluster.placement.policy.schema import ClusterPolicy

WHOLE: dict[str, Any] = yaml.safe_load(
    """
version: 2
tiers: {gold: {ttft: 500ms, itl: 80ms, weight: 4, min_copies: 2}, standard: {ttft: 2s, itl: 150ms}}
tenants: {acme: gold, "night-*": standard, "*": standard}
replicas:
  mode: "on"
  min: 0
  max: 12
  target: 0.7
  cold_share: 2%
  up: {stable: 10s, step: 4}
  down: {stable: 5m, step: 1, drain: 60s}
  zero_after: 15m
  forecast: "off"
  hold: 30s
  schedule:
    - {days: mon-fri, from: "07:30", to: "19:00", zone: UTC, min: 6}
    - {days: "sat,sun", max: 6}
placement:
  mode: "on"
  churn: 10%
  payback: 5m
  min_copies: 1
  max_copies: 8
  retry_s: 5
  max_retry_s: 300
adapters:
  - {adapter: sql, copies: all}
  - {adapter: "legal-*", owner: acme, copies: 2}
  - {adapter: huge, copies: {min: 1, max: 2}}
picking: {bound: 1.25, harm: 0.25, prefix: true, explain: 1%, max_queued: 1024}
"""
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=12),
    st.sampled_from(["all", "on", "observe", "10s", "5 m", "2%", "24:30", "mon-fri", "*", "UTC"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=5,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a tree."""
    found: list[tuple[Any, Any]] = []
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        found.append((tree, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


def has(tree: Any, path: str) -> bool:
    """Report whether a path leads to an entry, or to one that is missing in a container."""
    if path == "":
        return True
    for key in tree if isinstance(tree, dict) else ():
        if path == key:
            return True
        if path.startswith(f"{key}.") and has(tree[key], path[len(key) + 1 :]):
            return True
        found = re.match(r"\[(\d+)\](\.|$)", path[len(key) :]) if path.startswith(key) else None
        if found and isinstance(tree[key], list) and int(found[1]) < len(tree[key]):
            rest = path[len(key) + found.end() :]
            item = tree[key][int(found[1])]
            if rest == "" or has(item, rest) or rest in ("adapter", "min", "to"):
                return True
    return False


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    tree = copy.deepcopy(WHOLE)
    container, key = draw(st.sampled_from(places(tree)))
    how = draw(st.sampled_from(["replace", "remove", "rename", "repeat"]))
    if how == "replace":
        container[key] = draw(VALUES)
    elif how == "remove":
        del container[key]
    elif how == "rename" and isinstance(container, dict):
        container[draw(st.text(max_size=8))] = container.pop(key)
    elif isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    return tree


def test_the_whole_policy_is_right() -> None:
    text = yaml.safe_dump(WHOLE).encode()
    policy = parse_policy(text, source="whole")
    every = set(ClusterPolicy.model_fields)
    assert policy.model_fields_set == every, "a field of the policy is not mutated here"


@settings(max_examples=400)
@given(mutated())
def test_any_change_is_right_or_named(tree: dict[str, Any]) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True).encode()
    reading = examine_policy(text)
    if reading.policy is not None:
        assert reading.problems == ()
        again = yaml.safe_dump(reading.policy.model_dump(mode="json", by_alias=True)).encode()
        assert parse_policy(again, source="again") == reading.policy
        return
    assert reading.problems
    for problem in reading.problems:
        assert problem.words
        assert has(yaml.safe_load(text), problem.path), (problem, tree)
        assert problem.line is None or 1 <= problem.line <= text.count(b"\n") + 1


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_are_too_strange(content: bytes) -> None:
    reading = examine_policy(content)
    assert (reading.policy is None) == bool(reading.problems)


@settings(max_examples=200)
@given(
    st.sampled_from(["bool", "int", "float", "null", "str", "timestamp", "binary", "set", "omap"]),
    st.sampled_from(
        ["maybe", "''", "0x" + "f" * 4000, "0" + "7" * 5000, "9" * 5000, "", "[a]", "3"]
    )
    | st.text("+-.:_0123456789abefxEin", max_size=12),
    st.sampled_from(["!!", "!", ""]),
)
def test_no_tag_and_no_number_is_too_strange(tag: str, value: str, mark: str) -> None:
    tagged = f"{mark}{tag} {value}" if mark else value
    for text in (f"replicas: {{min: {tagged}}}", f"tiers: {tagged}", tagged):
        reading = examine_policy(text.encode())
        assert (reading.policy is None) == bool(reading.problems)
        for problem in reading.problems:
            assert str(problem)
