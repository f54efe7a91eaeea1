"""``braid route``."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table
from rich.text import Text

from cluster.errors import ConfigError
from deployments.cli import console
from deployments.cli.client import BraidClient, NoServer, find_target
from deployments.cli.options import JsonOption, KeyOption, TenantOption, UrlOption
from deployments.local.demo import DEMO_ADAPTERS, DEMO_RIGHTS, DEMO_ROUTER

DEFAULT_TENANT = "admin"
AUTO = "auto"
BASE_NAME = "(base)"


def route(
    prompt: Annotated[str, typer.Argument(help="The text that the router reads.")],
    router: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which router. Default: the one behind `auto`."),
    ] = None,
    tenant: TenantOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw candidates and weights into this file too."),
    ] = None,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which adapters would answer a prompt, without answering it.

    Asks the running cluster; where none runs, the demo's router answers in this process.
    """
    model = f"{AUTO}:{router}" if router else AUTO
    try:
        target = find_target(url, key, tenant, DEFAULT_TENANT)
    except NoServer:
        decision = route_here(prompt, tenant, router)
    else:
        with BraidClient(target) as client:
            body: dict[str, Any] = {"model": model, "prompt": prompt}
            if plot is not None:
                body["explain"] = True
            decision = client.post("/v1/route", body).body
    if plot is not None:
        from deployments.cli.route_plot import plot_decision

        plot_decision(decision, prompt, plot)
    if as_json:
        console.plain(orjson.dumps(decision, option=orjson.OPT_INDENT_2).decode())
    else:
        show_decision(decision)


def route_here(prompt: str, tenant: str | None, router: str | None) -> dict[str, Any]:
    """The demo router's answer, in the form of ``POST /v1/route``; it is kept nowhere.

    Raises:
        ConfigError: the demo is not here, or has no such tenant or router.
    """
    from cluster.adapters.catalog import AdapterCatalog
    from deployments.front.explain import explanation
    from router_service.routers.base import BASE_ALIAS
    from router_service.routers.dlp import load_dlp

    if router not in (None, "dlp"):
        raise ConfigError(f"--router {router}: no cluster runs, and the demo has only 'dlp'")
    if not (DEMO_ADAPTERS.is_dir() and DEMO_ROUTER.is_dir()):
        raise ConfigError(
            "no cluster runs, and the demo's router is not part of this installation; "
            "start a cluster with `braid up`"
        )
    entries = AdapterCatalog.scan(DEMO_ADAPTERS).entries
    chosen = load_dlp("dlp", DEMO_ROUTER, aliases=frozenset(entries))
    if tenant in (None, DEFAULT_TENANT):
        rights = frozenset(entries)
    elif tenant in DEMO_RIGHTS:
        rights = frozenset(DEMO_RIGHTS[tenant]) & frozenset(entries)
    else:
        known = ", ".join((*DEMO_RIGHTS, DEFAULT_TENANT))
        raise ConfigError(f"--tenant {tenant}: no such demo tenant; there are: {known}")
    allowed = (rights & frozenset(chosen.candidates)) | (
        frozenset({BASE_ALIAS}) & frozenset(chosen.candidates)
    )
    answer = chosen.route(prompt, allowed)
    scores = [
        {"name": s.alias or BASE_NAME, "probability": s.probability, "kept": s.kept}
        for s in sorted(answer.scores, key=lambda score: -score.probability)
    ]
    return {
        "id": None,
        "object": "routing.decision",
        "source": "computed",
        "router": chosen.name,
        "router_version": chosen.version,
        "granularity": chosen.declares.granularity.value,
        "mixture": [
            {"name": alias, "weight": weight, "digest": entries[alias].key.digest}
            for alias, weight in sorted(answer.weights, key=lambda term: -abs(term[1]))
        ],
        "scores": scores,
        "explain": explanation(scores, dict(answer.weights)),
    }


def show_decision(decision: dict[str, Any]) -> None:
    """Mixture as bars, then every candidate, then where it came from."""
    console.out.print("[bold]mixture[/bold]")
    console.out.print(console.mixture_table(decision["mixture"]))
    if decision["scores"]:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("candidate", "probability", "", "kept"):
            table.add_column(column, justify="right" if column == "probability" else "left")
        for score in decision["scores"]:
            table.add_row(
                Text(score["name"]),
                f"{score['probability']:.4f}",
                Text(console.bar(score["probability"]), style="cyan" if score["kept"] else "dim"),
                "kept" if score["kept"] else "",
            )
        console.out.print()
        console.out.print(table)
    kept = decision["id"] or "not kept: no cluster runs"
    console.out.print(
        Text(
            f"\nsource {decision['source']}, router {decision['router']}"
            f"@{decision['router_version'][:12]}, decision {kept}",
            style="dim",
        ),
        soft_wrap=True,
    )
