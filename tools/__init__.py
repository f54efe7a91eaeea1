"""Holds what `make` runs.

`install`, `lock` and `pins` run before the project is installed, so they use the standard library
alone.
"""
