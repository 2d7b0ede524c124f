"""The other side sees how a side ends and which rules it breaks: the proxy neither repairs nor hides it.

Usage: ends.py PLAN, where the server is scripted.py. Both directions: what the server sends, as the client sees it, and
what the client sends, as the server sees it; each with the same result through the proxy as without it.

A FIN must arrive as a FIN. A reset must arrive as an end, after everything sent before it: forwarded as a reset, it
would destroy unread data (RFC 9112, section 9.6).
"""

import asyncio
import itertools
import json
import urllib.parse
import uuid

from common import compare, plan
from frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, Connection, Socket, frame

ENDLESS = itertools.repeat(1)
# Incomplete input that the proxy cannot classify yet: it arrives when there is more, or at the end.
HELD = {"1 bytes of a frame", "2 bytes of a frame", "3 bytes of a frame", "half a ping", "half a close"}


def scripts(mask):
    """Bytes that one side may send, by name; `mask` is how this side masks when it follows the rules."""

    def sent(*arguments, mask=mask, **options):
        return frame(*arguments, mask=mask, **options)

    whole = sent(BINARY, bytes(300))
    lengths = [0, 1, 2, 3, 4, 150, len(whole) - 1, len(whole)]
    found = {f"{length} bytes of a frame": whole[:length] for length in lengths}
    return found | {
        "a frame masked as only the other side's are": sent(TEXT, b"hello", mask=not mask),
        "half a ping": sent(PING, b"hello")[:-2],
        "half a close": sent(CLOSE, b"\x03\xe8why")[:-2],
        "half a message": sent(TEXT, b"one", fin=False),
        "a continuation of nothing": sent(CONTINUATION, b"one"),
        "a ping of 126 bytes": sent(PING, bytes(126)),
        "a fragmented ping": sent(PING, b"one", fin=False),
        "reserved bits": sent(TEXT, b"hello", rsv=7),
        "a reserved opcode": sent(11, b"hello"),
        "text that is not UTF-8": sent(TEXT, b"\xff"),
        "a length beyond 63 bits": b"\x82" + bytes([mask * 0x80 | 127]) + b"\xff" * 20,
        "a close": sent(CLOSE, b"\x03\xe8"),
        "a close of 1 byte": sent(CLOSE, b"\x03"),
        "a close of 126 bytes": sent(CLOSE, bytes(126)),
        "a message, and a close behind it": sent(TEXT, b"hello") + sent(CLOSE, b"\x03\xe8"),
        "half a message, and a close behind it": sent(TEXT, b"one", fin=False) + sent(CLOSE, b"\x03\xe8"),
        "no frames at all": bytes(range(256)) * 300,
    }


async def from_the_server(url, script, before_the_end, end, one_by_one):
    query = {"send": script.hex(), "end": end} | ({"one_by_one": "yes"} if one_by_one else {})
    socket = await Socket.open(url, query="?" + urllib.parse.urlencode(query))
    connection = socket.connection
    await connection.until(lambda: len(connection.received) >= before_the_end)
    await socket.send(b"seen")
    await connection.until(lambda: False)
    connection.transport.abort()
    return {"received": connection.received.hex()} | how_it_ended(end, connection.end)


async def from_the_client(url, server, script, end, one_by_one):
    identity = uuid.uuid4()
    socket = await Socket.open(url, query=f"?id={identity}")
    await socket.send(script, ENDLESS if one_by_one else ())
    if end == "reset":
        # Unread data is lost with it, with the proxy and without: only the end itself is guaranteed to arrive.
        socket.connection.reset()
        return how_it_ended(end, (await saw(server, identity))["end"])
    await socket.finish()
    return await saw(server, identity)


def how_it_ended(sent, arrived):
    return {"ended": True} if sent == "reset" else {"end": arrived}


async def saw(server, identity):
    """The server's view of a connection, requested without the proxy."""
    host, port = server.removeprefix("ws://").rstrip("/").split(":")
    _, asking = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
    await asking.send(f"GET /?saw={identity} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await asking.until(lambda: False)
    asking.transport.abort()
    return json.loads(asking.received.partition(b"\r\n\r\n")[2])


def cases(url, server):
    for end, one_by_one in itertools.product(["FIN", "reset"], [False, True]):
        how = f"then {end}" + (", in writes of 1 byte" if one_by_one else "")
        for name, script in scripts(mask=False).items():
            # Longer ones would not fit into a request.
            if len(script) < 1000:
                before_the_end = 0 if name in HELD and url != server else len(script)
                yield f"the server sends {name}, {how}", from_the_server(url, script, before_the_end, end, one_by_one)
        for name, script in scripts(mask=True).items():
            if len(script) < 1000 or not one_by_one:
                yield f"the client sends {name}, {how}", from_the_client(url, server, script, end, one_by_one)


if __name__ == "__main__":
    compare(lambda url: cases(url, plan()["direct"]))
