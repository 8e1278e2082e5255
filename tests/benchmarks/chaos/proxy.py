"""A TCP proxy between one host and Redis: what passes it can be held up, or bitten off."""

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Final

_BLOCK: Final = 65_536


class Proxy:
    """Carry connections to a unix socket, in a thread of its own."""

    def __init__(self, upstream: Path, address: str = "127.0.0.1") -> None:
        self._upstream = upstream
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        #: Replies that are still to be cut off, and at which part of their bytes.
        self._bites = 0
        self._bite_at = 0.0
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._carry, self._address, 0)
        )
        self.port: Final[int] = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Return where Redis is, seen from behind the proxy."""
        return f"redis://{self._address}:{self.port}/0"

    def hold(self) -> None:
        """Let nothing pass, in neither direction; what was sent arrives after `release`."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def release(self) -> None:
        """Let everything pass again, first of all what was held up."""
        self._loop.call_soon_threadsafe(self._passing.set)

    def bite(self, replies: int, at: float) -> None:
        """Close the connections of the next replies, after the first part (0 to 1) of each."""
        self._loop.call_soon_threadsafe(self._set_bites, replies, at)

    def close(self) -> None:
        """Drop all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _set_bites(self, replies: int, at: float) -> None:
        self._bites, self._bite_at = replies, at

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            redis = await asyncio.open_unix_connection(str(self._upstream))
            with contextlib.closing(redis[1]):
                ways = [
                    asyncio.ensure_future(self._pump(reader, redis[1], reply=False)),
                    asyncio.ensure_future(self._pump(redis[0], writer, reply=True)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_BLOCK):
                await self._passing.wait()
                if reply and self._bites:
                    self._bites -= 1
                    writer.write(data[: int(self._bite_at * len(data))])
                    await writer.drain()
                    return
                writer.write(data)
                await writer.drain()
