"""A TCP gate between a client and a server: open, refusing, stalled, or cutting what is connected.

What it did can be proven afterwards: it counts the connections that it reset and the packets that it held back.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset, as a host does that has gone."""


class Gate:
    """Forwards a port of its own on loopback to `host:port`, on a thread of its own."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)
        self._thread.start()
        self._flow = self._run(self._event())
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.cuts = 0
        """Connections reset so far."""
        self.held_back = 0
        """Reads and connections that had to wait so far."""
        self._run(self._listen())

    def open(self) -> None:
        """Let everything through again."""
        self._run(self._open())

    def refuse(self) -> None:
        """Reset what is connected; new connections are refused."""
        self._run(self._refuse())

    def stall(self) -> None:
        """Hold everything back without a word, as a network does that drops packets."""
        self._loop.call_soon_threadsafe(self._flow.clear)

    def cut(self) -> None:
        """Reset what is connected; new connections go through."""
        self._run(self._cut())

    def close(self) -> None:
        """Stop for good."""
        self._run(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _event(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _open(self) -> None:
        self._flow.set()
        if self._server is None:
            await self._listen()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in list(self._writers):
            connection = writer.get_extra_info("socket")
            if connection is not None:
                with contextlib.suppress(OSError):  # it may have ended by itself
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
            self.cuts += 1
        self._writers.clear()
        for task in list(self._tasks):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]  # it runs in one
        self._writers.add(writer)
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._pass_gate()
            there, back = await asyncio.open_connection(*self._target)
            self._writers.add(back)
            pumps = [asyncio.ensure_future(self._pump(reader, back)), asyncio.ensure_future(self._pump(there, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            back.close()
            self._writers.discard(back)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()  # the server is down, or the gate cuts: the client sees a reset
        finally:
            for pump in pumps:
                pump.cancel()
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):  # either side may go at any time
            while data := await source.read(_CHUNK):
                await self._pass_gate()
                sink.write(data)
                await sink.drain()

    async def _pass_gate(self) -> None:
        if not self._flow.is_set():
            self.held_back += 1
            await self._flow.wait()
