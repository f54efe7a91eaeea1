"""Checks that a chat template compiles, in the sandbox in which transformers runs it.

Jinja computes expressions of constants when it compiles, so those that may become large, such as
``{{ 'a' * 3000000000 }}``, are refused before.
"""

import re
from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.errors import AdapterMalformed


class _Generation(Extension):
    """Parse ``{% generation %}``, with which transformers marks the assistant's text."""

    tags = {"generation"}  # noqa: RUF012 - as jinja has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


MAX_TOKENS = 20_000
"""Of the template's language; compiling that many takes two seconds."""


MAX_CONSTANT = 10**7
"""Characters, items and size of numbers that an expression of constants may come to."""

_GROWING = (nodes.Mul, nodes.Pow, nodes.Mod, nodes.Filter)
_MAX_POWER = 1000
_NUMBER = re.compile(r"[0-9]+")  # the width in a string that formats


def check_template(where: str, template: str) -> None:
    """Compile a template; of what it says, only small expressions of constants are computed.

    Raises:
        AdapterMalformed: it does not compile, or would compute a large constant meanwhile.
    """
    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    try:
        length = sum(1 for _ in environment.lex(template))
        if length > MAX_TOKENS:
            raise AdapterMalformed(
                f"{where}: chat template: expected at most {MAX_TOKENS} words and signs, "
                f"found {length}"
            )
        large = next(_large_constants(environment.parse(template)), None)
        if large is not None:
            raise AdapterMalformed(
                f"{where}: chat template: line {large.lineno}: expected constants without a "
                "product, power, format or filter that makes them large, or one inside another; "
                "write the value out"
            )
        environment.from_string(template)
    except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise AdapterMalformed(
            f"{where}: chat template: expected one that compiles, found: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error


def _large_constants(tree: nodes.Node) -> Iterator[nodes.Node]:
    """Find expressions of constants with values that may be far larger than they are."""
    for node in tree.find_all(_GROWING):
        if any(node.find_all((nodes.Name, nodes.Call))):
            continue  # jinja leaves it to the run
        if any(node.find_all(_GROWING)) or _may_be_large(node):
            yield node


def _may_be_large(node: nodes.Node) -> bool:
    """Return whether a product, power, format or filter of constants and sums may be large."""
    values = [part.value for part in node.find_all(nodes.Const)]
    lengths = [len(value) for value in values if isinstance(value, str)]
    numbers = sum(abs(value) for value in values if isinstance(value, int | float))
    if isinstance(node, nodes.Pow):
        return numbers > _MAX_POWER
    if isinstance(node, nodes.Mod | nodes.Filter):
        texts = (value for value in values if isinstance(value, str))
        numbers += sum(float(width) for text in texts for width in _NUMBER.findall(text))
    size = (1 + sum(lengths) + len(values)) * (1 + numbers)
    if isinstance(node, nodes.Filter):  # such as replace: one text for each place in another
        size *= 1 + sum(lengths) - max(lengths, default=0)
    return bool(size > MAX_CONSTANT)
