"""A link to the broker for each party, which can be cut, or fall silent, in the midst of a packet.

Each is a port on loopback, slow enough that a transfer takes a while. What a cut catches under way
is lost, as it is with a cable.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self

_BLOCK_BYTES = 4096


class Links:
    """The links of all parties, forwarded by one thread; `bytes_per_s` says who has one."""

    def __init__(self, broker_port: int, bytes_per_s: Mapping[str, float]) -> None:
        self.ports: dict[str, int] = {}
        self._links = {name: _Link(broker_port, rate) for name, rate in bytes_per_s.items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)

    def __enter__(self) -> Self:
        """Open the ports."""
        self._thread.start()
        self.ports = {name: self._wait(link.listen()) for name, link in self._links.items()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close them, and all that goes through them."""
        for link in self._links.values():
            self._wait(link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, name: str) -> None:
        """Break a link; there is none until it is mended."""
        self._do(self._links[name].cut)

    def silence(self, name: str) -> None:
        """Let nothing pass; neither end is told."""
        self._do(self._links[name].passes.clear)

    def mend(self, name: str) -> None:
        """Let all pass again; of a silence, nothing is lost that its ends waited for."""
        self._do(self._links[name].mend)

    def _do(self, call: Callable[[], None]) -> None:
        async def wrapped() -> None:
            call()

        self._wait(wrapped())

    def _wait(self, doing: Coroutine[Any, Any, int | None]) -> Any:  # noqa: ANN401 - an int, or nothing
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result()


class _Link:
    """One port; lives in the loop's thread."""

    def __init__(self, broker_port: int, bytes_per_s: float) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self._broker_port = broker_port
        self._bytes_per_s = bytes_per_s
        self._up = True
        self._ends: set[asyncio.StreamWriter] = set()
        self._forwarding: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        self.passes.set()
        await asyncio.gather(*self._forwarding)

    def cut(self) -> None:
        self._up = False
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self._up = True
        self.passes.set()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._forwarding.add(task)
        task.add_done_callback(self._forwarding.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._up:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self._broker_port)
        except OSError:
            writer.transport.abort()  # no broker
            return
        ends = {writer, there[1]}
        self._ends |= ends
        if not self._up:  # it was cut meanwhile
            self.cut()
        pumps = {
            asyncio.create_task(self._pump(reader, there[1])),
            asyncio.create_task(self._pump(there[0], writer)),
        }
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.close()  # what it was given already still goes out
        await asyncio.wait(pumps)
        self._ends -= ends

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                block = await reader.read(_BLOCK_BYTES)
                await self.passes.wait()
                if not block:
                    return
                writer.write(block)
                await writer.drain()
                await asyncio.sleep(len(block) / self._bytes_per_s)
        except OSError:
            return  # it broke
