"""The command ``braid``."""

from deployments.cli.toolkit.interruption import importing


def main() -> None:
    """Run the command; everything else is imported here, where Ctrl-C is handled."""
    with importing():
        from deployments.cli.command_line import app

    app()
