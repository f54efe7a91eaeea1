"""A run's files."""

from pathlib import Path

from benchmarks.engine.markdown import render
from benchmarks.engine.plot import plot
from benchmarks.engine.results import EngineReport
from cluster.errors import ConfigError


def write_report(report: EngineReport, folder: Path, name: str, command: str) -> tuple[Path, ...]:
    """Write ``name``.json, .md and .png into a folder, which is made if it is not there.

    Args:
        report: what was found.
        folder: where to.
        name: of the files, without an ending.
        command: that found it, for the page.

    Raises:
        ConfigError: the folder cannot be written.
    """
    data, page, picture = (folder / f"{name}.{ending}" for ending in ("json", "md", "png"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        plot(report, picture)
        page.write_text(render(report, command, picture.name), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error}") from error
    return data, page, picture
