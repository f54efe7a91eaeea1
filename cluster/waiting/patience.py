"""Limits of a front's patience with its replicas."""

REPLICA_WAIT_S = 30.0
"""A request waits so long for a replica that takes it."""
HURRY_S = 0.1
"""Between discoveries while a request waits for the first replica."""
MAX_FAILOVERS = 3
"""Replicas that may be lost under one request, besides those that end as planned."""
