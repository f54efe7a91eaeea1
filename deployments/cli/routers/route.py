"""``braid route``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cluster.domain.model_names import AUTO
from cluster.errors import ConfigError
from cluster.tenancy.quickstart import ADMIN_TENANT
from deployments.cli.routers.route_answer import (
    by_adapter,
    decides_inside,
    weighs_modules,
    weighs_tokens,
    with_answer,
)
from deployments.cli.routers.route_plot import check_target, plot_decision
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import BraidClient, NoServer, find_target
from deployments.cli.toolkit.options import JsonOption, KeyOption, TenantOption, UrlOption
from deployments.local.quickstart import DEMO_ADAPTERS, DEMO_RIGHTS, DEMO_ROUTER

BASE_NAME = "(base)"
MAX_TOKENS = 256


def route(
    prompt: Annotated[str, typer.Argument(help="The text that the router reads.")],
    router: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which router. Default: the one behind `auto`."),
    ] = None,
    tenant: TenantOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw candidates and weights into this file too. Where weights are made inside "
            "the engine, as by a gate, a short answer is asked for.",
        ),
    ] = None,
    tokens: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_TOKENS, help="Tokens of the answer that a gate's picture shows."
        ),
    ] = 24,
    key: KeyOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which adapters would answer a prompt, without answering it unless `--plot` needs it.

    Asks the running cluster; where none runs, the demo's router answers in this process.
    """
    if plot is not None:
        check_target(plot)
    model = f"{AUTO}:{router}" if router else AUTO
    try:
        target = find_target(url, key, tenant, ADMIN_TENANT)
    except NoServer:
        decision = route_here(prompt, tenant, router)
    else:
        with BraidClient(target) as client:
            body: dict[str, Any] = {"model": model, "prompt": prompt}
            if plot is not None:
                body["explain"] = True
            decision = client.post("/v1/route", body).body
            if plot is not None and decides_inside(decision):
                with console.spinner(f"asking for an answer of {tokens} tokens"):
                    decision = with_answer(client, decision, prompt, tokens)
    drawn = None if plot is None else plot_decision(decision, prompt, plot)
    if as_json:
        console.print_json(decision)
        return
    show_decision(decision)
    if drawn is not None:
        console.plain(f"drawn into {plot}: {drawn}")


def route_here(prompt: str, tenant: str | None, router: str | None) -> dict[str, Any]:
    """Ask the demo router here, in the form of ``POST /v1/route``; the decision is kept nowhere.

    Raises:
        ConfigError: the demo is not here, or has no such tenant or router.
    """
    from cluster.adapters.catalog import AdapterCatalog
    from deployments.front.requests.explain import explanation
    from router_service.artifacts.router_artifact import BASE_ALIAS
    from router_service.dlp.dlp_router import load_dlp

    if router not in (None, "dlp"):
        raise ConfigError(f"--router {router}: no cluster runs, and the demo has only 'dlp'")
    if not (DEMO_ADAPTERS.is_dir() and DEMO_ROUTER.is_dir()):
        raise ConfigError(
            "no cluster runs, and the demo's router is not part of this installation; "
            "start a cluster with `braid up`"
        )
    entries = AdapterCatalog.scan(DEMO_ADAPTERS).entries
    chosen = load_dlp("dlp", DEMO_ROUTER, aliases=frozenset(entries))
    if tenant in (None, ADMIN_TENANT):
        rights = frozenset(entries)
    elif tenant in DEMO_RIGHTS:
        rights = frozenset(DEMO_RIGHTS[tenant]) & frozenset(entries)
    else:
        known = ", ".join((*DEMO_RIGHTS, ADMIN_TENANT))
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
    """Print the mixture as bars, then candidates or the engine's weights, then the source."""
    if weighs_tokens(decision):
        show_gate(decision)
    else:
        console.out.print("[bold]mixture[/bold]")
        console.out.print(console.mixture_table(decision["mixture"]))
        if weighs_modules(decision):
            show_modules(decision)
        if decision["scores"]:
            console.out.print()
            console.out.print(_candidates_table(decision["scores"]))
    if "answer" in decision:
        console.out.print("\n[bold]answer[/bold]")
        console.plain(decision["answer"]["text"].strip())
    kept = decision["id"] or "not kept: no cluster runs"
    console.out.print(
        Text(
            f"\nsource {decision['source']}, router {decision['router']}"
            f"@{console.short_digest(decision['router_version'])}, decision {kept}",
            style="dim",
        ),
        soft_wrap=True,
    )


def show_gate(decision: dict[str, Any]) -> None:
    """Print a gate's weights over an answer, or say when they are computed."""
    console.out.print("[bold]gate[/bold]")
    explained = decision.get("explain") or {}
    if not explained.get("gate_weights"):
        names = ", ".join(term["name"] for term in decision["mixture"])
        console.plain(f"{names}: weighed for every token in every layer of the model")
        if decision["scores"]:
            console.plain("with --plot FILE.png a short answer is asked for and its weights drawn")
        return
    weights = by_adapter(explained)
    rows = {
        name: [value for layer in layers for value in layer] for name, layers in weights.items()
    }
    count, layers = len(explained["gate_weights"]), len(explained["gate_weights"][0])
    console.out.print(_spread_table("adapter", rows))
    console.out.print(Text(f"over {count} tokens and {layers} layers", style="dim"))


def show_modules(decision: dict[str, Any]) -> None:
    """Print each module's use if prefill has chosen, or say that it will."""
    layers = (decision.get("explain") or {}).get("layers")
    console.out.print("\n[bold]modules[/bold]")
    if not layers:
        console.plain("chosen for the whole prompt in each layer, when it is prefilled")
        return
    columns = zip(layers["columns"], zip(*layers["weights"], strict=True), strict=True)
    console.out.print(_spread_table("module", {name: list(column) for name, column in columns}))
    console.out.print(Text(f"over {len(layers['weights'])} layers", style="dim"))


def _spread_table(what: str, rows: dict[str, list[float]]) -> Table:
    """Make a table of the mean and range of each row's weights."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(what)
    for column in ("mean", "lowest", "highest"):
        table.add_column(column, justify="right")
    for name, values in rows.items():
        numbers = (sum(values) / len(values), min(values), max(values))
        table.add_row(Text(name, style="bold"), *(f"{number:.3f}" for number in numbers))
    return table


def _candidates_table(scores: list[dict[str, Any]]) -> Table:
    """Make a table of every candidate's probability, and if it was kept."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("candidate", "probability", "", "kept"):
        table.add_column(column, justify="right" if column == "probability" else "left")
    for score in scores:
        table.add_row(
            Text(score["name"]),
            f"{score['probability']:.4f}",
            Text(console.bar(score["probability"]), style="cyan" if score["kept"] else "dim"),
            "kept" if score["kept"] else "",
        )
    return table
