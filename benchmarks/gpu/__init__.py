"""One GPU, measured in minutes: its ceilings, kernels next to libraries' own, steps of models."""
