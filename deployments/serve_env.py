"""The Serve flags the whole application depends on, in one table.

Serve reads its flags from the process environment when it is imported, so they must be set before
Ray starts: a local run exports this table, and the Kubernetes manifests repeat it on every Ray
container (a test compares the two).

With direct ingress each ``Front`` replica runs its own HTTP server, on the first free port of the
range below, and binds the host of Serve's HTTP options. Serve also starts one Python proxy on the
head node, whatever ``proxy_location`` says; its port (``http_options.port``) must lie outside the
range, or on one machine it takes the first port from ``Front``.
"""


def serve_environment(host: str, port: int, fronts_per_node: int = 1) -> dict[str, str]:
    """Return the environment Ray needs before it starts, for fronts that listen on ``host:port``.

    ``fronts_per_node`` consecutive ports are offered on each node, one per ``Front`` replica that
    may run there. With one, a front comes back on the port it had or not at all; in a wider range
    it could move to a port that nobody forwards to.

    Raises:
        ValueError: the range is empty or does not fit below port 65536.
    """
    if fronts_per_node < 1 or port < 1 or port + fronts_per_node > 65536:
        raise ValueError(f"no port range of {fronts_per_node} fronts from port {port}")
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
        "RAY_SERVE_DEFAULT_HTTP_HOST": host,
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        # Serve takes range(min, max): the upper end itself is never used.
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + fronts_per_node),
        # Serve withholds a released port for 150 s, for HAProxy's sake: a restarted front would
        # find none.
        "RAY_SERVE_PORT_QUARANTINE_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
