"""Notices that a client has gone while its connection is not read."""

import asyncio
import select

_EVENTS = getattr(select, "POLLRDHUP", 0)  # POLLHUP and POLLERR are always told


def hung_up(transport: asyncio.BaseTransport) -> bool:
    """Tell that the other side has closed or half closed, though unread bytes come before that."""
    descriptor: int = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, _EVENTS)
    return bool(poll.poll(0))
