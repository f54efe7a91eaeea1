"""Clusters, clients and adapters that tests and measurements share; a tool that no wheel holds."""
