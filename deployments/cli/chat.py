"""``braid chat``."""

import sys
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from cluster.domain.model_names import AUTO
from cluster.errors import BraidError, ConfigError
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import BraidClient, find_target
from deployments.cli.toolkit.options import KeyOption, TenantOption, UrlOption

DEFAULT_TENANT = "acme"
Message = dict[str, str]


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="What to ask. Without it: a conversation.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="`auto`, `auto:ROUTER`, an adapter, or the base. Default: `auto`, or the base "
            "if there is no router.",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:WEIGHT]",
            help="A term of a mixture of your own; may be given again. Any weight is legal, "
            "also a negative one.",
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")
    ] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    tenant: TenantOption = None,
    key: KeyOption = None,
    url: UrlOption = None,
) -> None:
    """Ask, and see which adapters answer.

    The mixture and its source are shown before the answer streams in.
    """
    terms = [parse_term(text) for text in adapter or ()]
    if terms and model is not None and model.startswith(f"{AUTO}:"):
        raise ConfigError(f"--adapter: a mixture of your own goes without --model {model}")
    with BraidClient(find_target(url, key, tenant, DEFAULT_TENANT)) as client:
        options: dict[str, Any] = {
            "model": model or default_model(client),
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        if terms:
            options["adapters"] = terms
        if prompt is not None:
            _ask(client, options, [{"role": "user", "content": prompt}])
        else:
            _converse(client, options)


def parse_term(text: str) -> dict[str, str | float]:
    """Parse one ``--adapter`` into the form of the API.

    Raises:
        ConfigError: the weight is not a number.
    """
    name, colon, weight = text.partition(":")
    try:
        return {"name": name, "weight": float(weight) if colon else 1.0}
    except ValueError:
        raise ConfigError(f"--adapter {text}: {weight!r} is not a number; write NAME:0.7") from None


def default_model(client: BraidClient) -> str:
    """Choose the model: ``auto`` if the server has a router, else its base model."""
    names = [str(card["id"]) for card in client.get("/v1/models")["data"]]
    return AUTO if AUTO in names else names[0]


def _ask(client: BraidClient, options: dict[str, Any], messages: list[Message]) -> str:
    """Send the conversation and show the answer as it comes; returns it."""
    pieces: list[str] = []
    with client.stream_chat({**options, "messages": messages}) as stream:
        decision = client.decision(stream.headers.decision_id)
        console.out.print(Text(f"mixture  {stream.headers.source}", style="dim"))
        if decision is not None:
            console.out.print(Padding(console.mixture_table(decision["mixture"]), (0, 0, 0, 9)))
        console.out.print()
        for piece in stream.pieces:
            pieces.append(piece)
            console.out.print(piece, end="", markup=False, soft_wrap=True)
    console.out.print()
    return "".join(pieces)


def _converse(client: BraidClient, options: dict[str, Any]) -> None:
    if sys.stdin.isatty():
        console.out.print(
            f"model {options['model']} at {client.url}; an empty line starts a new "
            "conversation, Ctrl-D ends",
            style="dim",
        )
    messages: list[Message] = []
    while True:
        try:
            line = console.out.input("[bold magenta]> [/bold magenta]").strip()
        except EOFError:
            console.out.print()
            return
        if not line:
            messages.clear()
            continue
        messages.append({"role": "user", "content": line})
        try:
            answer = _ask(client, options, messages)
        except BraidError as error:  # the conversation continues
            messages.pop()
            console.show_error(error)
            continue
        messages.append({"role": "assistant", "content": answer})
        console.out.print()
