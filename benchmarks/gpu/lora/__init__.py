"""Contestants of the LoRA phase, over the same sites and mixtures."""
