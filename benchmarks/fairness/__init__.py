"""Proof on a live cluster that tenants share a replica by their weights."""
