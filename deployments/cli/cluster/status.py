"""``braid status``."""

import time
from typing import Any

from rich.table import Table
from rich.text import Text

from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import NoServer, admin_client, open_state
from deployments.cli.toolkit.options import JsonOption, KeyOption, UrlOption
from deployments.local.lifecycle import find_running
from deployments.local.local_state import read_json
from deployments.local.phases import RECOVERING, RUNNING

HISTORY_LINES = 8
TABLE: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0), "header_style": "dim"}
GOOD, BAD = "green", "red"


def status(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show replicas, adapters and where they live, and why; the policy, the store, the tenants.

    Needs an administrator's key.
    """
    _explain_absence(url)
    with admin_client(url, key) as client:
        body = client.get("/admin/v1/status")
    if as_json:
        console.print_json(body)
        return
    routers = ", ".join(body["routers"]) or "none"
    console.out.print(
        Text(client.url, style="bold") + f"  {body['model']}, routers: {routers}, "
        f"version {body['version']}"
    )
    show_replicas(body["replicas"])
    show_placement(body["placement"])
    show_store(body["decision_store"])
    show_tenants(body["tenants"])
    refused = body.get("tenants_file", {}).get("error")
    if refused:
        console.out.print(
            Text(f"tenants file refused, the last good one is in force: {refused}", style=BAD)
        )
    for problem in body["adapter_problems"]:
        console.note(f"adapter {problem['alias']} is not served: {problem['message']}")


def _explain_absence(url: str | None) -> None:
    """Say why no cluster of this state folder could be asked.

    Raises:
        NoServer: it is not there, or not yet.
    """
    if url is not None:
        return
    state = open_state()
    running = find_running(state)
    last: dict[str, Any] = read_json(state.status) or {}
    if running is not None:
        if running.phase == RECOVERING:
            console.note(f"{last.get('error')}; requests are answered meanwhile")
        elif running.phase != RUNNING:
            reason = f" after: {last['error']}" if last.get("error") else ""
            raise NoServer(
                f"process {running.pid} is {running.phase}{reason}; its log is {state.log}"
            )
        for incident in last.get("incidents") or ():
            at = time.strftime("%H:%M:%S", time.localtime(incident["at"]))
            console.note(f"{at} {incident['what']}")
        return
    if last.get("phase") == "failed":
        raise NoServer(
            f"the last start failed: {last.get('error')}; see {state.log}, then `braid up`"
        )
    if last and last.get("phase") != "stopped":
        raise NoServer(
            f"the supervisor (process {last.get('pid')}) was killed; see {state.log}, then "
            "`braid up`"
        )


def show_replicas(replicas: list[dict[str, Any]]) -> None:
    """Print load, KV blocks and resident adapters of each replica."""
    table = Table(title="Replicas", title_justify="left", title_style="bold", **TABLE)
    for column in ("replica", "running", "queued", "KV in use", "slots", "memory", "resident"):
        table.add_column(column, overflow="fold")
    for replica in replicas:
        total = replica["kv_blocks_total"]
        used = 1 - replica["kv_blocks_free"] / total if total else 0.0
        name = replica["replica_id"] + (" (draining)" if replica["draining"] else "")
        table.add_row(
            Text(name, style="bold"),
            str(replica["running"]),
            str(replica["queued"]),
            Text(console.bar(used, 8).ljust(8), style="cyan") + f" {used:.0%}",
            f"{len(replica['resident'])}/{replica['slots_total']}",
            console.size(replica["adapter_bytes_used"]),
            ", ".join(_resident(adapter) for adapter in replica["resident"]) or "-",
        )
    console.out.print()
    console.out.print(table)


def _resident(adapter: dict[str, Any]) -> str:
    details = [] if adapter["state"] == "ready" else [adapter["state"]]
    if adapter["leases"]:
        details.append(f"{adapter['leases']} in use")
    return str(adapter["alias"]) + (f" ({', '.join(details)})" if details else "")


def show_placement(placement: dict[str, Any]) -> None:
    """Print the places of each set, their reasons, and recent changes."""
    console.out.print()
    if "ticks" not in placement:  # the controller does not answer; the replicas work without it
        console.note(str(placement.get("error")))
        return
    console.out.print(
        Text("Placement ", style="bold")
        + f"version {placement['version']}, {placement['load']['requests_per_s']:.2f} requests/s"
    )
    for words in console.mode_lines(placement):
        console.note(words)
    console.out.print(Text(f"replicas: {placement['replica_reason']}"))
    if placement["sets"]:
        table = Table(**TABLE)
        for column in ("adapters", "copies", "requests/s", "why"):
            table.add_column(column)
        for placed in placement["sets"]:
            table.add_row(
                Text(" + ".join(placed["adapters"]), style="bold"),
                f"{placed['present']} of {placed['copies']}",
                f"{placed['requests_per_s']:.2f}",
                Text(placed["reason"]),
            )
        console.out.print(table)
    for missing in placement["unplaced"]:
        console.note(f"{console.set_name(missing)}: {missing['reason']}")
    for rule in placement["unknown_pins"]:
        console.note(f"policy: {rule}")
    for label in ("policy_error", "tick_error", "state_error"):
        if placement[label]:
            words = label.replace("_", " ")
            console.out.print(Text(f"{words}: {placement[label]}", style=BAD))
    for change in placement["history"][-HISTORY_LINES:]:
        console.out.print(Text(console.history_line(change), style="dim"))


def show_store(store: dict[str, Any]) -> None:
    """Print if decisions are kept, and how often they were found."""
    closed = store["breaker"] == "closed"
    words = "answers" if closed else f"away (breaker {store['breaker']}): decisions are carried"
    counts = ", ".join(f"{store[name]} {name}" for name in store if name != "breaker")
    console.out.print()
    console.out.print(
        Text("Decision store ", style="bold")
        + Text(words, style=GOOD if closed else BAD)
        + Text(f"  {counts}", style="dim")
    )


def show_tenants(tenants: list[dict[str, Any]]) -> None:
    """Print the rights of every tenant."""
    table = Table(title="Tenants", title_justify="left", title_style="bold", **TABLE)
    for column in ("tenant", "role", "adapters"):
        table.add_column(column)
    for tenant in tenants:
        rights = "all" if "*" in tenant["adapters"] else ", ".join(tenant["adapters"])
        role = " ".join(name for name in ("admin", "metrics") if tenant.get(name))
        table.add_row(Text(tenant["id"], style="bold"), role, rights or "none")
    console.out.print()
    console.out.print(table)
