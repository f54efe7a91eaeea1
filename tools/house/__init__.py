"""Measures how the code is arranged: folders, imports, names, docstrings. Imports none of it."""
