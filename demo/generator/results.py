"""Measured scores of the demo skills, as kept in `docs/results/demo-skills.json`."""

from pathlib import Path

from demo.generator.results_file import ResultRecord, read_result_file


class Sample(ResultRecord):
    """One held-out prompt with everybody's answer."""

    prompt: str
    wanted: str
    base: str


class SkillResult(ResultRecord):
    """Exact matches of one skill on its held-out examples."""

    fingerprint: str
    """sha256 over base digest, adapter weights and examples: what base and adapter depend on."""
    n: int
    base: int
    adapter: int
    routed: int | None = None
    """None until it is measured through a router."""
    sample: Sample


class DemoResults(ResultRecord):
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
        ConfigError: the file is not one that `write_result_file` wrote.
    """
    return read_result_file(DemoResults, path)
