"""Keeps Serve's own servers on the loopback interface where the whole Ray node is there."""

from typing import Any

LOOPBACK = "127.0.0.1"


def bind_serve_to_loopback() -> None:
    """Call first in an actor's constructor, before Serve opens the replica's gRPC port.

    Serve binds that port to every interface, whatever the node's address is, and it executes what
    it is sent. On a node that is 127.0.0.1 nobody else has business there.
    """
    import ray
    from ray.serve._private import replica as module

    if ray.util.get_node_ip_address() != LOOPBACK:  # type: ignore[no-untyped-call] # Ray's
        return
    replica: Any = module
    bind = replica.add_port_to_grpc_server

    def bind_loopback(server: Any, address: str) -> Any:
        return bind(server, address.replace("[::]", LOOPBACK))

    replica.add_port_to_grpc_server = bind_loopback
