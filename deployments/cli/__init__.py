"""The command ``braid``."""


def main() -> None:
    """Entry point; everything is imported when it is called."""
    from deployments.cli.app import app

    app()
