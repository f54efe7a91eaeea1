"""AdamW's moments as named tensors."""

import torch

_MOMENTS = ("exp_avg", "exp_avg_sq")


def moments(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Both moments of every parameter, as `<parameter>/<moment>`."""
    return {
        f"{name}/{moment}": optimizer.state[parameter][moment].clone()
        for name, parameter in parameters.items()
        for moment in _MOMENTS
    }


def load_moments(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, torch.nn.Parameter],
    saved: dict[str, torch.Tensor],
    *,
    step: int,
) -> None:
    """Put saved moments back, as they were after `step` steps."""
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step)),
            **{moment: saved[f"{name}/{moment}"].clone() for moment in _MOMENTS},
        }
