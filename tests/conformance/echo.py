"""An echo server on PyPI's `websockets`, with permessage-deflate. Prints its port; stops when its stdin is closed."""

import asyncio
import contextlib
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(socket):
    # However a socket ends, the client notices too.
    with contextlib.suppress(ConnectionClosed):
        async for message in socket:
            await socket.send(message)


async def main():
    # Its own pings would come at unpredictable times.
    async with serve(echo, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for socket in server.connections:
            socket.transport.abort()


asyncio.run(main())
