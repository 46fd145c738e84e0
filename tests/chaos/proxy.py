"""A TCP proxy between the workers and their broker that can cut, slow down and hold what passes.

Of Kafka's protocol it knows how long a request is and of which kind, so that it can hold one kind alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from worker.tools.kafka_properties import HOST

CHUNK = 64 * 1024
PRODUCE, TXN_OFFSET_COMMIT = b"\0\0", b"\0\x1c"  # how such a request begins, after its length


class Proxy:
    """Listens on `port`, connects to `target`; runs in a thread of its own until `close`."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._delay = 0.0  # seconds, either way
        self._links: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._open, self._open_to_all = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._open_to_all.set()
        self._withheld = b""  # the kind of request that does not pass while not open to all
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(asyncio.start_server(self._link, HOST, port), self._loop).result(5)

    def cut(self) -> None:
        """Ends every connection, whatever is on its way; new ones are welcome."""
        self._call(lambda: [link.transport.abort() for link in self._links])

    @contextmanager
    def slow(self, delay: float) -> Iterator[None]:
        """Each request and each piece of an answer waits for `delay` seconds."""
        self._delay = delay
        yield
        self._delay = 0.0

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Connections stay open and nothing passes, as where a cable is out; what waited is gone at the end."""
        self._call(self._open.clear)
        yield
        self.cut()
        self._call(self._open.set)

    @contextmanager
    def withholding(self, kind: bytes, *, lose: bool = False) -> Iterator[None]:
        """No request of this kind passes; those that waited do at the end, if they are not to be lost."""
        self._withheld = kind
        self._call(self._open_to_all.clear)
        yield
        if lose:
            self.cut()
        self._call(self._open_to_all.set)

    def close(self) -> None:
        self.cut()
        self._call(self._loop.stop)
        self._thread.join(5)

    def _call(self, function: object) -> None:
        self._loop.call_soon_threadsafe(function)  # type: ignore[arg-type]

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        links = {writer}
        self._links |= links
        try:
            there = await asyncio.open_connection(HOST, self._target)
            links.add(there[1])
            self._links |= links
            await asyncio.gather(self._requests(reader, there[1]), self._answers(there[0], writer))
        except (OSError, EOFError):
            pass  # the broker is away, or the connection was cut
        finally:
            self._links -= links
            for link in links:
                link.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            length = await reader.readexactly(4)
            request = await reader.readexactly(int.from_bytes(length, "big"))
            if request.startswith(self._withheld):
                await self._open_to_all.wait()
            await self._pass(length + request, writer)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            await self._pass(chunk, writer)
        raise EOFError  # so that the other direction ends too

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._delay)
        await self._open.wait()
        if writer.transport.is_closing():
            raise EOFError  # cut while it waited
        writer.write(data)
        await writer.drain()
