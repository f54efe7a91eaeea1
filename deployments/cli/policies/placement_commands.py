"""``braid placement``: which adapter is where, why, and which replica a request would get."""

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any
from urllib.parse import urlencode

import typer
from rich.table import Table
from rich.text import Text

from cluster.errors import AdapterNotFound, BraidError, ConfigError
from cluster.placement.planning.pins import is_pattern
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import admin_client
from deployments.cli.toolkit.options import JsonOption, KeyOption, UrlOption
from deployments.cli.toolkit.server_policy import POLICY

PLACEMENT, PICK = "/admin/v1/placement", "/admin/v1/pick"
READY = "ready"
LINES_SHOWN = 20
TABLE: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "header_style": "dim"}
_QUOTED = re.compile(r'"(?:[^"/]*/)?([^"]*)"')
"""A name in a message about a rule, without its owner."""
TERMS = ("queue", "load", "prefill", "harm")

placement_app = typer.Typer(
    invoke_without_command=True, help="See which adapter is on which replica, and why."
)


@placement_app.callback()
def show(
    context: typer.Context,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the replicas with their adapters, what has no place, and why the count is what it is."""
    if context.invoked_subcommand is not None:
        return
    state = _controller_state(url, key)
    if as_json:
        console.print_json(state)
        return
    for words in console.mode_lines(state):
        console.note(words)
    console.out.print(Text(f"replicas: {state['replica_reason']}"))
    console.out.print(_map(state))
    legend = "bold: placed and ready; (name): brought in by demand; name...: on its way"
    console.out.print(Text(legend, style="dim"))
    for missing in state["unplaced"]:
        console.note(f"{console.set_name(missing)}: {missing['reason']}")
    for rule in state["unknown_pins"]:
        console.note(rule)
    for failure in state["failures"]:
        console.note(_failure(failure))


@placement_app.command()
def why(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", show_default=False)],
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where an adapter is and should be, with every reason that the controller has for it."""
    if not adapter.strip():
        raise ConfigError("ADAPTER is empty; name an adapter, as `braid adapters list` shows them")
    state = _controller_state(url, key)
    with admin_client(url, key) as client:
        rules = client.get(POLICY)["effective"].get("adapters", [])
    found = reasons_for(adapter, state, rules)
    if as_json:
        console.print_json(found)
        return
    for words in console.mode_lines(state):
        console.note(words)
    for reason in found["reasons"]:
        console.out.print(Text(reason), soft_wrap=True)
    for place in found["replicas"]:
        console.plain(f"{place['replica']}: {place['state']}")
    for line in found["history"][-LINES_SHOWN:]:
        console.out.print(Text(console.history_line(line), style="dim"), soft_wrap=True)


@placement_app.command()
def pick(
    adapters: Annotated[
        str, typer.Option(metavar="A,B,...", help="Names. Default: the base alone.")
    ] = "",
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who asks. Default: shared adapters only.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=0)] = 0,
    expected_tokens: Annotated[int, typer.Option(min=0, help="That will be generated.")] = 64,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain which replica a request would be given now, without sending one."""
    query: dict[str, Any] = {
        "adapters": adapters,
        "prompt_tokens": prompt_tokens,
        "expected_tokens": expected_tokens,
    }
    if tenant is not None:
        query["tenant"] = tenant
    with admin_client(url, key) as client:
        body = client.get(f"{PICK}?{urlencode(query)}")
    if as_json:
        console.print_json(body)
        return
    if body["replica"] is None:
        console.note("no replica would be given this request")
    else:
        console.out.print(
            Text(body["replica"], style="bold") + Text(f", by {body['decided_by']}", style="dim")
        )
    table = Table(**TABLE)
    for column in ("replica", "cost ms", *TERMS, "refused by"):
        table.add_column(column, justify="left" if column in ("replica", "refused by") else "right")
    for one in body["candidates"]:
        cells = [one.get("cost_ms"), *(one.get(f"{term}_ms") for term in TERMS)]
        numbers = ["" if cell is None else f"{cell:g}" for cell in cells]
        table.add_row(Text(one["replica"]), *numbers, one.get("refused_by", ""))
    console.out.print(table)


def reasons_for(
    adapter: str, state: Mapping[str, Any], rules: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Collect what the controller's state and the policy's rules say of one adapter.

    Raises:
        AdapterNotFound: they say nothing; the message names the nearest that is known.
    """
    reasons = [
        f"{console.set_name(placed)}: {placed['reason']}"
        for placed in state.get("sets", ())
        if adapter in placed["adapters"]
    ]
    reasons += [
        f"{console.set_name(missing)}: a promise is not kept: {missing['reason']}"
        for missing in state.get("unplaced", ())
        if adapter in missing["adapters"]
    ]
    reasons += [_failure(one) for one in state.get("failures", ()) if one["adapter"] == adapter]
    unknown = [rule for rule in state.get("unknown_pins", ()) if _is_about(adapter, rule)]
    named = [
        f"{place} of the policy{_whose(rule)}: {_copies(rule['copies'])}"
        for place, rule in ((f"adapters[{at}]", rule) for at, rule in enumerate(rules))
        if fnmatchcase(adapter, rule["adapter"])
        and not any(words.startswith(f"{place}.") for words in unknown)
    ]
    replicas = [
        {"replica": name, "state": word}
        for name, replica in state.get("replicas", {}).items()
        for word in _states(adapter, replica)
    ]
    history = [line for line in state.get("history", ()) if line["adapter"] == adapter]
    if not (reasons or replicas or history):
        near = difflib.get_close_matches(adapter, sorted(_known(state)), n=1, cutoff=0.5)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        if not (named or unknown):
            raise AdapterNotFound(
                f'the controller has nothing to say of "{adapter}": no request asks for it, no '
                f"rule names it and no replica has it{hint}"
            )
        if named:
            reasons = [f"no request asks for it, and no replica has it{hint}"]
    reasons += [*named, *unknown]
    return {"adapter": adapter, "reasons": reasons, "replicas": replicas, "history": history}


def _controller_state(url: str | None, key: str | None) -> dict[str, Any]:
    """Ask for the controller's state.

    Raises:
        BraidError: it does not answer.
    """
    with admin_client(url, key) as client:
        state = client.get(PLACEMENT)
    if "replicas" not in state:
        raise BraidError(
            f"{state.get('error', 'the controller tells nothing')}; replicas keep what they have, "
            "and `braid status` shows them"
        )
    return state


def _is_about(adapter: str, rule: str) -> bool:
    """Tell by a message about a rule of the policy that the rule may be meant for an adapter."""
    named = _QUOTED.findall(rule)
    return adapter in named or any(fnmatchcase(adapter, name) for name in named)


def _whose(rule: Mapping[str, Any]) -> str:
    owner = f" of {rule['owner']}" if rule["owner"] else ""
    return f', "{rule["adapter"]}"{owner}' if owner or is_pattern(rule["adapter"]) else ""


def _copies(bounds: Any) -> str:
    """Write the copies of a rule: a number, "all", or a mapping of bounds."""
    low, high = (
        (bounds.get("min"), bounds.get("max")) if isinstance(bounds, Mapping) else (bounds, None)
    )
    words = ["a copy on every replica" if low == "all" else f"at least {low}"] if low else []
    words += [f"at most {high}"] if high else []
    return " and ".join(words) + (" of its copies are placed" if low != "all" else " is placed")


def _states(adapter: str, replica: Mapping[str, Any]) -> Iterable[str]:
    placed = any(item["adapter"] == adapter for item in replica["desired"])
    held = [item["state"] for item in replica["resident"] if item["adapter"] == adapter]
    if placed:
        yield f"placed here, {held[0]}" if held else "placed here, not there yet"
    elif held:
        yield f"brought in by demand, {held[0]}"


def _known(state: Mapping[str, Any]) -> set[str]:
    known = {str(name) for placed in state.get("sets", ()) for name in placed["adapters"]}
    for replica in state.get("replicas", {}).values():
        known |= {str(item["adapter"]) for item in (*replica["desired"], *replica["resident"])}
    return known


def _map(state: Mapping[str, Any]) -> Table:
    table = Table(**TABLE)
    for column in ("replica", "placed", "there", "adapters"):
        table.add_column(column, overflow="fold")
    draining = set(state.get("scaling", {}).get("draining", ()))
    for name, replica in state["replicas"].items():
        marks = ["suspect"] if replica["suspect"] else []
        marks += ["draining"] if name in draining else []
        table.add_row(
            Text(name + (f" ({', '.join(marks)})" if marks else ""), style="bold"),
            str(len(replica["desired"])),
            str(len(replica["resident"])),
            _cells(replica),
        )
    return table


def _cells(replica: Mapping[str, Any]) -> Text:
    states = {item["digest"]: item["state"] for item in replica["resident"]}
    placed = {item["digest"] for item in replica["desired"]}
    words = []
    for item in replica["desired"]:
        there = states.get(item["digest"]) == READY
        name = str(item["adapter"] or item["digest"][: console.DIGEST_CHARACTERS])
        words.append(Text(name, style="bold") if there else Text(f"{name}...", style="yellow"))
    words += [
        Text(f"({item['adapter']})", style="dim")
        for item in replica["resident"]
        if item["digest"] not in placed
    ]
    return Text(" ").join(words) if words else Text("-", style="dim")


def _failure(failure: Mapping[str, Any]) -> str:
    return (
        f"{failure['adapter']} on {failure['replica']}: {failure['attempts']} prefetches failed, "
        f"the next one in {failure['retry_in_s']:.0f} s: {failure['message']}"
    )
