"""Compares what rounding the base model's weights costs: perplexity and time, side by side."""
