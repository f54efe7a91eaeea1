"""Reads the YAML of a policy: its tree, the line of each entry, and what no tree can show.

A key that is written twice, an alias, a tag, a number that YAML reads otherwise than people do:
each is refused, since the tree would have lost it. So is a document without entries: it may be one
that is about to be written, and would put every default in force.
"""

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import Reader

from cluster.errors import ConfigError
from cluster.placement.policy.problems import PolicyProblem
from cluster.placement.policy.units import shown

try:
    from yaml import CSafeLoader as _Loader  # ten times as fast, where it was built
except ImportError:
    from yaml import SafeLoader as _Loader  # type: ignore[assignment] # the same interface

MOST_BYTES = 256 << 10
DEEPEST = 16
LONGEST_KEY = 100
MOST_DIGITS = 20
"""Of a whole number. More have no use, and Python neither reads nor writes thousands of them."""
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?[eE][-+]?[0-9]+")
_WITH_COLONS = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_STEM = "tag:yaml.org,2002:"
_TEXT = f"{_STEM}str"
_EMPTY = "empty; begin with version: 2"


class Unreadable(ConfigError):
    """The text has no tree; the message says why, and ``line`` where."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class PolicyText:
    """The tree of a document, without the entries that ``problems`` name."""

    tree: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)  # of each path, from 1
    problems: list[PolicyProblem] = field(default_factory=list)


def read_text(content: bytes) -> PolicyText:
    """Return the tree of one document.

    Raises:
        Unreadable: it is empty, too long, not text, not YAML, too deep, or has aliases.
    """
    if len(content) > MOST_BYTES:
        raise Unreadable(f"{len(content)} bytes are too many; a policy has at most {MOST_BYTES}")
    found = PolicyText()
    text = decoded(content)
    with _as_unreadable():
        _check_events(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise Unreadable(_EMPTY)
            found.tree = _Walk(loader, found).document(node)
        finally:
            loader.dispose()
    return found


def decoded(content: bytes) -> str:
    """Return a document as text.

    Raises:
        Unreadable: it is not UTF-8, or has characters that YAML does not.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        coding = "UTF-16, not" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "not"
        raise Unreadable(
            f"{coding} text in UTF-8; save it as UTF-8", content.count(b"\n", 0, error.start) + 1
        ) from error
    found = Reader.NON_PRINTABLE.search(text)
    if found is not None:
        before = text[: found.start()]
        column = found.start() - before.rfind("\n")
        raise Unreadable(
            f"column {column}: not valid YAML: the character {found[0]!r} may not be in it; "
            "remove it",
            before.count("\n") + 1,
        )
    return text


@contextmanager
def _as_unreadable() -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"column {mark.column + 1}: " if mark else ""
        context = f"{error.context}, " if error.context else ""
        raise Unreadable(
            f"{where}not valid YAML: {context}{error.problem}", mark.line + 1 if mark else None
        ) from error
    except yaml.YAMLError as error:
        raise Unreadable(f"not valid YAML: {error}") from error


def _check_events(text: str) -> None:
    """Refuse aliases, which can stand for trees without bounds, and depth, before any tree."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent):
            raise Unreadable(f"*{event.anchor}: aliases are refused; write the value out", line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise Unreadable(f"nested more than {DEEPEST} deep; no policy is", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Walk:
    """Makes plain values of nodes."""

    def __init__(self, loader: Any, found: PolicyText) -> None:
        self._loader = loader
        self._found = found

    def document(self, node: yaml.Node) -> dict[str, Any]:
        is_null = node.tag == self._untagged(node) == f"{_STEM}null"
        if is_null or (isinstance(node, yaml.MappingNode) and not node.value):
            raise Unreadable(_EMPTY)
        if isinstance(node, yaml.MappingNode):
            tree: dict[str, Any] | None = self._value(node, "")
            return tree or {}
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "text"
        raise Unreadable(f"expected a mapping of sections, found {kind}; begin with version: 2", 1)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                kind = "list" if isinstance(key, yaml.SequenceNode) else "mapping"
                self._refuse(key, path, f"a {kind} cannot be a key; write the name of a field")
                continue
            if key.tag == f"{_STEM}merge":
                self._refuse(key, path, "<<: merge keys are not read; write the entries out")
                continue
            if {key.tag, self._untagged(key)} != {_TEXT}:
                self._refuse(key, path, f"the key {shown(key.value)} is not text; put it in quotes")
                continue
            if len(key.value) > LONGEST_KEY:
                self._refuse(key, path, f"the key {shown(key.value)} is too long; shorten it")
                continue
            child = f"{path}.{key.value}" if path else key.value
            if child in self._found.lines:
                self._refuse(key, child, f'key "{key.value}" is written twice; remove one')
                continue
            self._found.lines[child] = key.start_mark.line + 1
            tree[key.value] = self._value(value, child)
        return tree

    def _value(self, node: yaml.Node, path: str) -> Any:
        if node.tag != self._untagged(node):
            tag = node.tag.replace(_STEM, "!!")
            self._refuse(
                node, path, f"{shown(tag)} is not a tag of a policy; leave it out, and quote text"
            )
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, f"{path}[{at}]") for at, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _untagged(self, node: yaml.Node) -> str:
        """Return the tag that a node without one has."""
        is_plain = isinstance(node, yaml.ScalarNode) and not node.style
        tag: str = self._loader.resolve(type(node), node.value, (is_plain, not is_plain))
        return tag

    def _item(self, node: yaml.Node, path: str) -> Any:
        self._found.lines[path] = node.start_mark.line + 1
        return self._value(node, path)

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        kind = node.tag.removeprefix(_STEM)
        if kind == "bool" and node.value.lower() in ("on", "off"):
            return node.value.lower()
        if kind in ("int", "float") and _WITH_COLONS.fullmatch(node.value):
            return node.value  # YAML makes 19:30 a number of minutes
        if kind == "str" and not node.style and _EXPONENT.fullmatch(node.value):
            return float(node.value)  # JSON writes 1e9; YAML wants 1.0e+9
        if kind not in ("bool", "int", "float", "null", "str"):
            self._refuse(node, path, f"{shown(node.value)} is read as {kind}; put it in quotes")
            return None
        if kind in ("int", "float") and "_" in node.value:
            self._refuse(node, path, f"{shown(node.value)} has a _; write the digits alone")
            return None
        if kind == "int" and len(node.value) > MOST_DIGITS:
            told = f"{shown(node.value)} is too long a number; write at most {MOST_DIGITS} digits"
            self._refuse(node, path, told)
            return None
        try:
            value = self._loader.construct_object(node)
        except ValueError:
            self._refuse(node, path, f"{shown(node.value)} is not {kind}; put it in quotes")
            return None
        if kind == "int" and _OCTAL.fullmatch(node.value) and value != 0:
            self._refuse(
                node, path, f"{node.value} is read as {value}: leave out the 0 at its beginning"
            )
        return value

    def _refuse(self, node: yaml.Node, path: str, words: str) -> None:
        self._found.problems.append(PolicyProblem(path, words, node.start_mark.line + 1))
