"""``braid up``."""

import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.text import Text

from cluster.config import AppConfig, Settings, cache_folder, state_folder
from cluster.domain.model_names import AUTO
from cluster.errors import BraidError, ConfigError
from deployments.cli.cluster.launch import Launch, Wish, check_machine, differences, plan_launch
from deployments.cli.cluster.showcase import prompt_for, show_answers, show_next, show_rights
from deployments.cli.toolkit import console
from deployments.local import lifecycle
from deployments.local.local_state import StateDir, write_run

WHAT, MACHINE, OPERATOR = "What is served", "Machine", "Operation"


def up(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="ID|DIR",
            help="Base model: hub id or folder. Default: SmolLM2-135M-Instruct, fetched once.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of PEFT folders; a folder's name is the adapter's. Default: the demo's.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    router: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="A trained router; may be given again. The first one answers model 'auto'.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    no_demo: Annotated[
        bool, typer.Option("--no-demo", help="No adapters at all.", rich_help_panel=WHAT)
    ] = False,
    sources: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder under which administrators may name folders to add as adapters. "
            "Default: sources in the state folder.",
            rich_help_panel=OPERATOR,
        ),
    ] = None,
    source_url: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="A scheme (s3://) or beginning of URLs from which adapters may be fetched; may be "
            "given again. Default: none.",
            rich_help_panel=OPERATOR,
        ),
    ] = None,
    base_check: Annotated[
        str | None,
        typer.Option(
            metavar="digest|name|shapes",
            help="What must agree where an adapter says which base it was trained on. Default: "
            "digest; name with the demo's adapters.",
            rich_help_panel=OPERATOR,
        ),
    ] = None,
    tenants: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Tenants, key hashes and rights (YAML). Default: two demo tenants and an admin.",
            rich_help_panel=OPERATOR,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Placement and scaling policy (YAML); read again when it changes.",
            rich_help_panel=OPERATOR,
        ),
    ] = None,
    cost_profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Costs of steps, loads and starts to begin with, as `braid bench profile` wrote "
            "them. Default: learnt while serving.",
            rich_help_panel=OPERATOR,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings that have no option here, by section as in a Serve config (YAML), such "
            "as front.trace_log. Options have the last word.",
            rich_help_panel=OPERATOR,
        ),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Redis or Valkey for decisions and quotas. Default: BRAID_REDIS_URL, else one "
            "is started.",
            rich_help_panel=OPERATOR,
        ),
    ] = None,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground",
            help="Stay in the foreground, with the log on the terminal, until Ctrl-C.",
            rich_help_panel=OPERATOR,
        ),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="braid|vllm",
            help="What computes the answers; `braid engine list` shows what is installed. "
            "Default: braid.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|cuda",
            help="What the replicas compute on. Default: auto, GPUs if they can be used.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="GPUs to use, one for each replica. Default: as many as replicas.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Engines, one process each. Default: 2, or 1 on a machine with one GPU.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads per replica. Default: the machine's cores shared out.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|bfloat16|float16",
            help="Numbers of the base model. Default: float32.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="none|int8",
            help="Weights of the base model. int8 decodes faster, on CPUs only. Default: none.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Adapters in memory at once, per replica. Default: 16.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on. Default: 127.0.0.1.", rich_help_panel=MACHINE),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port to listen on. Default: 8000.", rich_help_panel=MACHINE
        ),
    ] = None,
) -> None:
    """Start a cluster on this machine, and show that it answers.

    Everything is checked first: files, port, Redis, model. A start that fails leaves nothing
    behind. When the cluster runs already, only the answers are shown. `braid down` stops it.
    """
    settings = Settings()
    state = StateDir.open(state_folder(settings))
    wish = Wish(
        model=model,
        adapters=adapters,
        no_demo=no_demo,
        replicas=replicas,
        gpus=gpus,
        engine=engine,
        device=device,
        threads=threads,
        dtype=dtype,
        quantize=quantize,
        host=host,
        port=port,
        redis_url=redis_url,
        policy=policy,
        tenants=tenants,
        routers=tuple(router or ()),
        slots=slots,
        sources=sources,
        source_urls=tuple(source_url or ()),
        base_check=base_check,
        cost_profile=cost_profile,
        config=config,
    )
    with console.spinner("checking files"):
        launch = plan_launch(wish, state, settings)
    running = lifecycle.find_running(state)
    if running is not None:
        _check_running(running, state, launch)
    else:
        _check_and_fetch(launch, state, settings)
        if foreground:
            _run_in_foreground(state, launch.config)
        running = _start(launch, state)
    try:
        _show(running.url.replace("://0.0.0.0:", "://127.0.0.1:"), launch, state)
    except BraidError:
        console.note("the cluster is still running: see `braid status`, stop it with `braid down`")
        raise


def _check_running(running: lifecycle.RunningCluster, state: StateDir, launch: Launch) -> None:
    changed = differences(state, launch.config)
    if changed:
        raise ConfigError(
            f"a cluster is running already (process {running.pid}, {running.url}) with another "
            f"configuration; it differs in {', '.join(changed)}. Stop it first with `braid down`"
        )
    if not lifecycle.takes_requests(running):
        raise ConfigError(
            f"a cluster is running already (process {running.pid}, {running.url}, phase "
            f"{running.phase}) but no replica answers; see {state.log}, or stop it with "
            "`braid down`"
        )
    console.out.print(
        f"already running at [bold]{running.url}[/bold]: "
        f"{lifecycle.ready_replicas(running)} of at least {_least_replicas(launch, state)} "
        "replicas ready"
    )


def _check_and_fetch(launch: Launch, state: StateDir, settings: Settings) -> None:
    """Run the remaining checks, fetch the model, and write the demo tenants' files."""
    from cluster.base_model.source import resolve_model
    from cluster.tenancy.quickstart import write_demo_tenants

    config = launch.config
    lifecycle.check_port_free(config.front.host, config.front.port)
    for problem in launch.catalog.problems:
        console.note(f"adapter {problem.alias} is not served: {problem.message}")
    with console.fetch_bar() as report:
        location = resolve_model(config.model, config.cache_dir or cache_folder(settings), report)
    for warning in (launch.unused, check_machine(launch, location)):
        if warning is not None:
            console.note(warning)
    if launch.rights is not None:
        write_demo_tenants(state.tenants, state.keys, launch.rights, secrets.token_bytes)


def _run_in_foreground(state: StateDir, config: AppConfig) -> NoReturn:
    """Become the supervisor: its log and its end are the terminal's."""
    state.status.unlink(missing_ok=True)
    write_run(state, config)
    console.out.print(
        f"running in the foreground at http://{config.front.host}:{config.front.port}; Ctrl-C stops"
    )
    os.chdir(state.root)
    arguments = [sys.executable, "-m", lifecycle.SUPERVISOR_MODULE, str(state.root)]
    os.execv(sys.executable, arguments)


def _start(launch: Launch, state: StateDir) -> lifecycle.RunningCluster:
    with console.spinner("starting") as say:
        running = lifecycle.start(
            state, launch.config, say, replicas=lambda: _least_replicas(launch, state)
        )
    count = lifecycle.ready_replicas(running)
    words = "1 replica" if count == 1 else f"{count} replicas"
    console.out.print(
        Text("ready ", style="bold green")
        + Text(f"at {running.url}: {running.model}, {words}, {len(launch.catalog)} adapters")
    )
    return running


def _least_replicas(launch: Launch, state: StateDir) -> int:
    """Return how many replicas are asked for, and say it if a kept policy has the last word."""
    from deployments.cli.cluster.asked_count import asked_count

    asked = asked_count(launch.config, state, launch.replicas, datetime.now(UTC))
    if asked.version and asked.replicas != launch.replicas:
        console.note(
            f"version {asked.version} of the policy is kept and in force: it asks for "
            f"{asked.replicas} replica{'' if asked.replicas == 1 else 's'} at least, not "
            f"{launch.replicas}; see `braid policy show`"
        )
    return asked.replicas


def _show(url: str, launch: Launch, state: StateDir) -> None:
    from cluster.tenancy.keys import read_keys
    from cluster.tenancy.quickstart import ADMIN_TENANT, DEMO_TENANTS

    if launch.rights is None:
        console.out.print(f"tenants and their keys: as in {launch.config.tenants_file}")
        return
    model = AUTO if launch.config.routers else launch.config.model
    keys = read_keys(state.keys)
    rights = {tenant: launch.rights.get(tenant, ()) for tenant in DEMO_TENANTS}
    console.out.print("\n[bold]Who may use what[/bold]")
    show_rights(rights)
    show_answers(url, keys, rights, model)
    console.out.print(f"\n[bold]Keys[/bold] (kept in {state.keys})")
    for tenant in (*DEMO_TENANTS, ADMIN_TENANT):
        console.plain(f"  {tenant:<8}{keys[tenant]}")
    tenant = DEMO_TENANTS[0]
    aliases = rights[tenant]
    name = model if model == AUTO or not aliases else aliases[0]
    show_next(url, keys[tenant], prompt_for(aliases), name)
