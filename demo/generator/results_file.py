"""Files of results: JSON with one line per field, so that a change shows in a diff."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import ConfigError


class ResultRecord(BaseModel):
    """Part of a file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


R = TypeVar("R", bound=ResultRecord)


def read_result_file(kind: type[R], path: Path) -> R | None:
    """Read the results in `path`; returns None if the file does not exist.

    Raises:
        ConfigError: the file is not one that `write_result_file` wrote.
    """
    if not path.exists():
        return None
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ConfigError(f"{path}: not a results file: {error}") from error


def write_result_file(path: Path, results: ResultRecord) -> None:
    """Write `results`, one line per field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
