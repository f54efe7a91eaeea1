"""Importers of published traces, and generators of files in their formats."""
