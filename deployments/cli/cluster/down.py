"""``braid down``."""

from deployments.cli.toolkit import console
from deployments.cli.toolkit.client import open_state
from deployments.local import lifecycle


def down() -> None:
    """Stop the cluster that `braid up` started, and every process that belongs to it.

    Which process that is stands in the state folder and is checked; nothing is found by name.
    When nothing runs, nothing happens.
    """
    state = open_state()
    with console.spinner("stopping: running requests may finish"):
        killed = lifecycle.stop(state)
    if killed is None:
        console.out.print(f"nothing runs (state folder {state.root})", markup=False)
        return
    if killed:
        console.note(f"had to be killed: {', '.join(str(pid) for pid in killed)}")
    console.out.print("stopped")
