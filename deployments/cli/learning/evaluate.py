"""``braid eval``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.table import Table
from rich.text import Text

from cluster.config import Settings, cache_folder
from cluster.errors import ConfigError
from deployments.cli.learning.train_common import checked
from deployments.cli.learning.training_options import ThreadsOption
from deployments.cli.toolkit import console
from deployments.cli.toolkit.mixture_text import parse_mixture
from deployments.cli.toolkit.options import JsonOption
from deployments.local.quickstart import DEMO_ADAPTERS

SHOWN_MISTAKES = 3


class MetricName(StrEnum):
    """Choices of ``--metric``."""

    EXACT = "exact"
    VALUE = "value"
    CHOICE = "choice"
    PERPLEXITY = "perplexity"


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help='JSON lines of {"prompt": ..., "completion": ...}, with "answer" or "choices" '
            "where the metric needs them.",
            show_default=False,
        ),
    ],
    metric: Annotated[
        MetricName,
        typer.Option(
            help="exact: the greedy answer is the completion. value: it comes to the number in "
            '"answer". choice: the completion is the likeliest choice. perplexity: of the '
            "completion."
        ),
    ] = MetricName.EXACT,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Score this PEFT folder.")
    ] = None,
    mixture: Annotated[
        str | None, typer.Option(metavar="A=W,B=W", help="Score this mixture.")
    ] = None,
    router: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Score what this router chooses.")
    ] = None,
    router_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A setting of the router; may be given again."),
    ] = None,
    adapters: Annotated[
        Path,
        typer.Option("--adapters", metavar="DIR", help="The adapters of mixture and router."),
    ] = DEMO_ADAPTERS,
    base: Annotated[
        str | None,
        typer.Option(metavar="ID|DIR", help="Base model. Default: SmolLM2-135M-Instruct."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many lines.")] = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write every line's score here, as JSON."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score the base, an adapter, a mixture or a router on JSON lines, in this process."""
    from router_service.artifacts.outputs import check_file
    from training.evaluation.evaluation_run import evaluate as run
    from training.evaluation.target import EvalConfig

    options = _options(router_option or [])
    if router_option and router is None:
        raise ConfigError(f"--router-option {router_option[0]}: needs --router as well; give both")
    if out is not None:
        check_file(out)
    demo = adapters == DEMO_ADAPTERS or (adapter is not None and adapter.parent == DEMO_ADAPTERS)
    config = checked(
        EvalConfig,
        data=data,
        metric=metric.value,
        adapters=adapters,
        adapter=adapter,
        mixture=parse_mixture(mixture) if mixture is not None else None,
        router=router,
        router_options=options,
        base=base,
        cache_dir=cache_folder(Settings()),
        limit=limit,
        # The hub's copy of the quickstart's base and the wheel's, which was quantised, differ.
        base_check="name" if demo else "digest",
        threads=threads,
    )
    with console.counter(transient=True) as report:
        done = run(config, lambda what, n, total: report(what, "", n, total))
    whole = done.as_json()
    if out is not None:
        out.write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2) + b"\n")
    if as_json:
        summary = {key: value for key, value in whole.items() if key != "scored"}
        console.print_json(summary)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("target", "metric", "n", "value", "95 % interval", "adapters per prompt"):
        table.add_column(column, justify="left" if column in ("target", "metric") else "right")
    if done.interval is None:
        value, interval = f"{done.value:.3f}", ""
    else:
        value = f"{done.value:.1%}"
        interval = f"{done.interval[0]:.1%} to {done.interval[1]:.1%}"
    table.add_row(
        Text(done.target, style="bold"),
        done.metric,
        str(done.n),
        value,
        interval,
        f"{done.mean_fan_out:.2f}",
    )
    console.out.print(table)
    if done.interval is not None:
        for item in [item for item in done.scored if not item.score][:SHOWN_MISTAKES]:
            console.out.print(Text(f"\nprompt  {' '.join(item.prompt.split())}", style="dim"))
            console.out.print(Text(f"wanted  {item.wanted}"))
            console.out.print(Text(f"got     {item.answered}", style="red"))


def _options(given: list[str]) -> dict[str, object]:
    """Parse settings as JSON values if they are some, else as text."""
    options: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"--router-option {text}: expected NAME=VALUE")
        try:
            options[name] = orjson.loads(value)
        except orjson.JSONDecodeError:
            options[name] = value
    return options
