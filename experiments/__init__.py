"""Reproductions of the papers' claims, one command each; results go to docs/results."""
