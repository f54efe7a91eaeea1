"""``braid simulate``."""

import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.toolkit import console
from deployments.cli.toolkit.interruption import importing
from deployments.cli.toolkit.options import JsonOption, KeyOption, UrlOption

if TYPE_CHECKING:
    from deployments.cli.simulation.cluster_facts import ClusterFacts

WHAT, CLUSTER, OUTPUT = "Requests", "The cluster", "The report"
SEEDS = 5


class EngineName(StrEnum):
    """Choices of ``--engine``."""

    FAST = "fast"
    EXACT = "exact"


class PublishedFormat(StrEnum):
    """Choices of ``--import``'s first word."""

    AZURE = "azure"
    BURSTGPT = "burstgpt"
    MOONCAKE = "mooncake"


def simulate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[POLICY.yaml|LOG.jsonl]...",
            help="Policies to compare. A log of requests counts as one of --log.",
            show_default=False,
        ),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="Requests by formula (docs/simulator.md lists them). Default: a day in "
            "small, in 400 s.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Requests that fronts recorded; may be given again for several fronts.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    published: Annotated[
        tuple[PublishedFormat, Path] | None,
        typer.Option(
            "--import",
            metavar="azure|burstgpt|mooncake FILE",
            help="Requests of a published trace.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help=f"Traces of the same kind, for intervals. Default: {SEEDS}; 1 with --log.",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="current|default|FILE",
            help="Costs of steps, loads and starts: as a running cluster has fitted them, the "
            "defaults, or a profile of `braid bench profile`. Default: current, if one runs.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="fast: requests share a replica's time. exact: every step of the real scheduler.",
            rich_help_panel=CLUSTER,
        ),
    ] = EngineName.FAST,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Replicas at the start. Default: as many as run, else the policy's least.",
            show_default=False,
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Adapter slots of a replica. Default: the cluster's, else those of `braid up`.",
            show_default=False,
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Fit delays to the first half of a recorded log, and show the error on its second "
            "half.",
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            metavar="all|none|NAME,...",
            help="Known ways to pick, place and scale to compare with. Default: a few, or none if "
            "policies are named or swept.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="PATH=LOW:HIGH:STEP",
            help="Vary one field of the policy, or PATH=A,B,C.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write report.md, report.json and pictures here.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes. Default: one for each core.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try policies on a simulated cluster: only time is simulated, the parts are the real ones.

    The policy in force is always among them; without a cluster that is the default one.
    """
    with importing():
        from cluster.simulation.report.recipe import LogSource, RunRecipe
        from cluster.simulation.report.report_document import report_document
        from cluster.simulation.report.table import make_report
        from cluster.simulation.report.trials import Experiment, run_experiment
        from cluster.simulation.spec import SimulationSpec
        from deployments.cli.simulation import own_error, premises, summary, wishes

    if out is not None:
        summary.check_folder(out)
    facts = _facts(url, key, model)
    paths, log = wishes.sorted_files(files or (), log or ())
    columns = wishes.chosen_columns(facts, paths, sweep, baselines)
    shape = wishes.chosen_shape(slots, facts)
    costs, costs_from = wishes.chosen_model(model, facts)
    source = wishes.chosen_source(trace, log, published, calibrate or (), shape)
    base = SimulationSpec(
        trace=(),
        policy=wishes.policy_in_force(facts).policy,
        catalog=(),
        shape=shape,
        model=costs,
        engine=engine.value,
        ranks=facts.ranks if facts else {},
        own_weights=facts.own_weights if facts else {},
    )
    policies = [column.change(base).policy for column in columns]
    base = replace(base, replicas=wishes.chosen_replicas(replicas, facts, policies))
    known = facts.adapters if facts else {}
    rules = tuple(rule for policy in policies for rule in policy.adapters)
    note = None
    if calibrate:
        learnt = facts is not None and costs is facts.model
        base, note = own_error.calibrated(
            RunRecipe(base, LogSource(tuple(calibrate)), known, rules), learnt
        )
    count = seeds or (1 if isinstance(source, LogSource) else SEEDS)
    recipe = RunRecipe(base, source, known, rules)
    first = recipe(0)  # a wrong trace is refused before processes start
    looks = ""
    if first.trace[-1].at > wishes.LONG_S:
        recipe = replace(recipe, base=replace(base, delays=base.delays.coarse))
        looks = wishes.COARSE
    experiment = Experiment(recipe, columns, tuple(range(count)), base.policy)
    setup = premises.setup_words(first, source, columns, facts, costs=costs_from, looks=looks)
    jobs = len(columns) * count
    runs = "1 run" if jobs == 1 else f"{jobs} runs"
    with console.counter(transient=True) as counter:
        trials = run_experiment(
            experiment,
            workers or os.cpu_count() or 1,
            lambda share: counter("simulating", runs, round(1000 * share), 1000),
        )
    report = make_report(
        experiment,
        trials,
        setup,
        calibration=note or own_error.on_record(trials),
        notes=premises.notes(first, source, columns, count),
    )
    if out is not None:
        summary.write_report(report, [trial.series for trial in trials], out)
    if as_json:
        console.print_json(report_document(report))
        return
    summary.show_report(report)
    if out is not None:
        console.plain(f"written: {out / summary.PAGE}")


def _facts(url: str | None, key: str | None, model: str | None) -> "ClusterFacts | None":
    """Ask the cluster, or return None if none runs and none was named."""
    from deployments.cli.simulation.cluster_facts import read_cluster
    from deployments.cli.toolkit.client import admin_client, open_state
    from deployments.local.lifecycle import find_running

    if url is None and find_running(open_state()) is None:
        return None
    with console.spinner("asking the cluster"), admin_client(url, key) as client:
        facts = read_cluster(client)
    if model is None and facts.model is None:
        console.note(f"the default costs are used: {facts.model_problem}")
    return facts
