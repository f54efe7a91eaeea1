"""Fusion that does not depend on the prompt: merges, searched weights, static mixtures."""
