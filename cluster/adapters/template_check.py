"""Whether a chat template compiles, by the sandbox in which transformers runs it."""

from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.errors import AdapterMalformed


class _Generation(Extension):
    """``{% generation %}``, by which transformers marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - as jinja has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


MAX_TOKENS = 20_000
"""Of the template's language; compiling that many takes two seconds."""


def check_template(where: str, template: str) -> None:
    """Compile a template and run nothing.

    Raises:
        AdapterMalformed: it does not compile.
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
        environment.from_string(template)
    except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise AdapterMalformed(
            f"{where}: chat template: expected one that compiles, found: "
            f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
