"""Says on top of a report how far the simulator is from what was recorded."""

from collections.abc import Iterable
from dataclasses import replace

from cluster.simulation.calibrate import CalibrationErrors, calibrate
from cluster.simulation.report.recipe import RunRecipe
from cluster.simulation.report.table import CalibrationNote
from cluster.simulation.report.trials import Trial
from cluster.simulation.simulate import simulate
from cluster.simulation.spec import SimulationSpec
from deployments.cli.toolkit import console


def calibrated(recipe: RunRecipe, learnt: bool) -> tuple[SimulationSpec, CalibrationNote]:
    """Fit the delays to a log; returns the description with them, and the words for the report.

    Args:
        learnt: the costs are of a cluster that runs, which may have served the log.
    """
    with console.spinner("calibrating"):
        found = calibrate(recipe(0), simulate)
    lines = (
        "Error on the second half of a recorded log, whose first half three delays were fitted to: "
        + _words(found.errors)
        + ".",
        *(("The cluster may have learnt its costs from the second half too.",) if learnt else ()),
    )
    return replace(recipe.base, delays=found.delays), CalibrationNote(lines, found.errors.is_red)


def on_record(trials: Iterable[Trial]) -> CalibrationNote | None:
    """Return the error of the first column on what its log recorded; None if it recorded nothing.

    It needs no further simulation, and nothing is fitted.
    """
    errors = next((trial.errors for trial in trials if trial.errors is not None), None)
    if errors is None:
        return None
    lines = (
        "The first column compared with what this log recorded, and with nothing fitted: "
        + _words(errors)
        + ". Where the log is of another policy or other costs, that is part of the difference.",
    )
    return CalibrationNote(lines, errors.is_red)


def _words(errors: CalibrationErrors) -> str:
    return "; ".join(errors.words)
