"""A server that sends what the request specifies, and later reports what it received. Prints its port, and stops when
its stdin is closed.

`GET /?send=HEX&end=FIN` (or `end=reset`) with an upgrade: sends these bytes in one write with the 101, or separately
with `one_by_one`; waits until the client has sent something, and then ends, if an `end` is given. `GET /?saw=ID`
without an upgrade: waits until the connection with `id=ID` has ended, and reports what it received and how it ended.
"""

import asyncio
import itertools
import json
import sys
import urllib.parse

from frames import Connection

# For the key that every client here sends.
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
# Its observations, by id; a future until then.
saw = {}
serving = set()


def seen(identity):
    return saw.setdefault(identity, asyncio.get_running_loop().create_future())


class Serving(Connection):
    def connection_made(self, transport):
        super().connection_made(transport)
        task = asyncio.ensure_future(serve(self))
        serving.add(task)
        task.add_done_callback(serving.discard)


async def serve(connection):
    await connection.until(lambda: b"\r\n\r\n" in connection.received)
    head, _, rest = bytes(connection.received).partition(b"\r\n\r\n")
    connection.received[:] = rest
    target = head.split()[1].decode()
    query = dict(urllib.parse.parse_qsl(target.partition("?")[2]))
    if "saw" in query:
        body = json.dumps(await seen(query["saw"])).encode()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        return connection.transport.close()

    script = bytes.fromhex(query.get("send", ""))
    if "one_by_one" in query:
        await connection.send(SWITCH)
        await connection.send(script, itertools.repeat(1))
    else:
        await connection.send(SWITCH + script)
    if "end" in query:
        await connection.until(lambda: connection.received)
        if query["end"] == "reset":
            return connection.reset()
        connection.transport.write_eof()
    await connection.until(lambda: False)
    if "id" in query:
        seen(query["id"]).set_result({"received": connection.received.hex(), "end": connection.end})
    connection.transport.close()


async def main():
    server = await asyncio.get_running_loop().create_server(Serving, "127.0.0.1", 0)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


asyncio.run(main())
