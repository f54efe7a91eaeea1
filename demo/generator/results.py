"""Measured scores of the demo skills, as kept in `docs/results/demo-skills.json`."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import ConfigError


class _ResultRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sample(_ResultRecord):
    """One held-out prompt with everybody's answer."""

    prompt: str
    wanted: str
    base: str


class SkillResult(_ResultRecord):
    """Exact matches of one skill on its held-out examples."""

    fingerprint: str
    """sha256 over base digest, adapter weights and examples: what base and adapter depend on."""
    n: int
    base: int
    adapter: int
    routed: int | None = None
    """None until it is measured through a router."""
    sample: Sample


class DemoResults(_ResultRecord):
    """One evaluation of all skills."""

    base_model: str
    base_digest: str
    seed: int
    router: str | None = None
    """Name of the router behind the routed column."""
    skills: dict[str, SkillResult]

    @classmethod
    def empty(cls) -> "DemoResults":
        """Make results with nothing measured yet."""
        return cls(base_model="", base_digest="", seed=0, skills={})


def read_results(path: Path) -> DemoResults | None:
    """Read the results in `path`; returns None if the file does not exist.

    Raises:
        ConfigError: the file is not one that `write_results` wrote.
    """
    if not path.exists():
        return None
    try:
        return DemoResults.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ConfigError(f"{path}: not a results file: {error}") from error


def write_results(path: Path, results: DemoResults) -> None:
    """Write `results`, one line per field, so that a change shows in a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
