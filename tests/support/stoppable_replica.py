"""A scripted replica in a process of its own, which a test can stop and continue.

It prints its port, then a line for each request that comes and for each that its front gave up.
Every answer begins, and waits before its second token.
"""

import asyncio
from collections.abc import Callable

from cluster.domain.ids import RequestId
from cluster.domain.replica import HEARTBEAT_S
from deployments.link.link_messages import Submit
from tests.support.byte_base import END_OF_TEXT, FIRST_BYTE
from tests.support.scripted_replica import Script, ScriptedReplica, Speech


class _TellingReplica(ScriptedReplica):
    """Tells what its fronts do."""

    def __init__(self, script: Script, tell: Callable[[str], None]) -> None:
        super().__init__("r1", script, END_OF_TEXT, FIRST_BYTE)
        self._tell = tell

    def submit(self, message: Submit) -> None:
        super().submit(message)
        self._tell(f"began {message.request_id}")

    def disconnected(self, request_ids: frozenset[RequestId]) -> None:
        super().disconnected(request_ids)
        self._tell(f"given up {' '.join(sorted(request_ids))}")


async def main() -> None:
    script = Script()
    script.speeches = [Speech(hold_after=1)]
    replica = _TellingReplica(script, lambda words: print(words, flush=True))
    await replica.start()
    print(replica.address.rsplit(":", 1)[1], flush=True)
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        replica.publish()


if __name__ == "__main__":
    asyncio.run(main())
