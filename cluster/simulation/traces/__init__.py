"""Traces: their file format, generators by formula, and importers of published formats."""
