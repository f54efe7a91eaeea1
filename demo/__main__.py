"""``python -m demo``: rebuild and measure the demo."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cluster.config import Settings, cache_folder
from cluster.domain.model_names import AUTO
from deployments.cli.command_line import BraidGroup
from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import BraidClient, admin_client
from deployments.cli.toolkit.options import KeyOption, UrlOption
from deployments.local.quickstart import DEMO_ADAPTERS, DEMO_ROUTER, PROJECT_ROOT

PROGRAM = "python -m demo"
ANSWER_TOKENS = 64
WORKERS = 8
PAIR = ("cron", "sql")
N_PAIRS = 200
RESULTS = PROJECT_ROOT / "docs" / "results" / "demo-skills.json"
REPORT = PROJECT_ROOT / "docs" / "demo-skills.md"

app = typer.Typer(
    name=PROGRAM,
    cls=BraidGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    help="Rebuild and measure the demo: its data, adapters, router, and their scores.",
)


@app.command("data")
def data(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", show_default=False)],
    n_train: Annotated[int, typer.Option(min=1, help="Training examples per skill.")] = 2000,
    n_heldout: Annotated[int, typer.Option(min=1, help="Held-out examples per skill.")] = 60,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
) -> None:
    """Write each skill's examples as JSON lines; held-out ones come from other templates.

    Also write the prompts of all skills for a router, and 200 examples of two skills at once for a
    gate.
    """
    from demo.generator.datasets import generate_pairs, write_datasets
    from demo.generator.router import write_router_data
    from training.jsonl import write_examples

    written = write_datasets(out, seed, n_train=n_train, n_heldout=n_heldout)
    for skill, (train, heldout) in written.items():
        console.plain(f"{skill:<10} {train}  {heldout}")
    prompts, held_out = write_router_data(out / "router", seed)
    console.plain(f"{'router':<10} {prompts}  {held_out}")
    both = out / f"{'-'.join(PAIR)}.jsonl"
    write_examples(both, generate_pairs(*PAIR, N_PAIRS, seed))
    console.plain(f"{'gate':<10} {both}")


@app.command("build")
def build(
    adapters: Annotated[Path, typer.Option(metavar="DIR")] = DEMO_ADAPTERS,
    router: Annotated[Path, typer.Option(metavar="DIR")] = DEMO_ROUTER,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads; 0 is the library's choice.")
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep finished adapters, train the rest.")
    ] = False,
) -> None:
    """Train every adapter of the demo, and its router: about a quarter of an hour on two cores."""
    from demo.generator.build import build_adapters
    from demo.generator.router import train_demo_router

    with console.counter() as report:
        build_adapters(
            adapters,
            cache_folder(Settings()),
            threads=threads,
            resume=resume,
            progress=lambda skill, at: report(
                skill, f"loss {at.loss:.4f}, {at.eta_s:.0f} s to go", at.step, at.total
            ),
        )
        done = train_demo_router(
            router,
            lambda at: report("router", f"loss {at.loss:.4f}", at.step, at.steps),
            threads=threads,
            overwrite=True,
        )
    console.plain(f"adapters are in {adapters}, the router is in {router}")
    if done.held_out_accuracy is not None:
        console.plain(f"router: {done.held_out_accuracy:.1%} of held-out prompts to the right one")


@app.command("evaluate")
def evaluate(
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Held-out prompts per skill. Default: 50.")
    ] = None,
    adapters: Annotated[Path, typer.Option(metavar="DIR")] = DEMO_ADAPTERS,
    results: Annotated[Path, typer.Option(metavar="FILE")] = RESULTS,
    report: Annotated[Path, typer.Option(metavar="FILE")] = REPORT,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads; 0 is the library's choice.")
    ] = 0,
    no_routed: Annotated[
        bool, typer.Option("--no-routed", help="Leave the routed column as it is.")
    ] = False,
    key: KeyOption = None,
    url: UrlOption = None,
) -> None:
    """Score the base, each skill's adapter, and what the running cluster's router chooses.

    Scores of unchanged adapters are not measured again. The routed column needs a cluster with
    the demo: `braid up` first.
    """
    from demo.generator.evaluate import N_HELDOUT, evaluate_demo

    client = None if no_routed else admin_client(url, key)

    def ask(prompt: str) -> str:
        assert client is not None
        body = {
            "model": AUTO,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS,
        }
        return str(client.chat(body).body["choices"][0]["message"]["content"])

    try:
        router = router_name(client) if client is not None else None
        with console.counter() as say:
            done = evaluate_demo(
                adapters,
                cache_folder(Settings()),
                results,
                report,
                n=n or N_HELDOUT,
                answer=ask if client is not None else None,
                router=router,
                workers=WORKERS,
                threads=threads,
                progress=lambda skill, column, at, total: say(f"{skill} {column}", "", at, total),
            )
    finally:
        if client is not None:
            client.close()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("skill", "n", "base", "adapter", "routed"):
        table.add_column(column, justify="left" if column == "skill" else "right")
    for skill, result in sorted(done.skills.items()):
        routed = "-" if result.routed is None else f"{result.routed / result.n:.0%}"
        table.add_row(
            Text(skill, style="bold"),
            str(result.n),
            f"{result.base / result.n:.0%}",
            f"{result.adapter / result.n:.0%}",
            routed,
        )
    console.out.print(table)
    console.plain(f"written: {results}, {report}")


@app.command("wordings")
def wordings(
    router: Annotated[Path, typer.Option(metavar="DIR")] = DEMO_ROUTER,
    before: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The router of before, to measure its column again. Default: as it was measured.",
        ),
    ] = None,
    results: Annotated[Path, typer.Option(metavar="FILE")] = RESULTS,
    report: Annotated[Path, typer.Option(metavar="FILE")] = REPORT,
) -> None:
    """Score the router's choices on human wordings, and its rivals'; needs no cluster."""
    from demo.generator.score_wordings import score_wordings

    done = score_wordings(router, results, report, before)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("wordings", "n", *done.p50_ms):
        table.add_column(column, justify="left" if column == "wordings" else "right")
    for kind, row in done.rows.items():
        shares = (f"{row.right[name] / row.n:.0%}" for name in done.p50_ms)
        table.add_row(Text(kind), str(row.n), *shares)
    console.out.print(table)
    console.plain(f"written: {report}")


def router_name(client: BraidClient) -> str | None:
    """Name the first router of the server, which answers ``auto``."""
    names = [str(card["id"]) for card in client.get("/v1/models")["data"]]
    named = [name.removeprefix(f"{AUTO}:") for name in names if name.startswith(f"{AUTO}:")]
    return named[0] if named else None


if __name__ == "__main__":
    app(prog_name=PROGRAM)
