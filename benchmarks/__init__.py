"""Measurements of kernels, engine and cluster; a development tool that no wheel holds."""
