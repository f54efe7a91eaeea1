"""The limits of a simulated front; those of the cluster's fronts are the same."""

REPLICA_WAIT_S = 30.0
"""A request waits so long for a free replica, as in the front of the cluster; so do these two."""
HURRY_S = 0.1
"""Between looks for replicas while a request waits for the first one."""
MAX_FAILOVERS = 3
"""Replicas that may be lost under one request."""

OVERDUE_S = 5.0
"""After its deadline a request that no replica answers for is given up."""

FRONT_LOST = "front_lost"
"""Outcome of a request whose front died."""
