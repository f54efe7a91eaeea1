"""Checks the prose of docstrings, comments, messages and documents against the house's rules."""
