"""Messages must arrive intact: huge and tiny ones, writes of one byte, fragments, and end-to-end compression; with a
real client (PyPI's `websockets`) and one that writes bytes.

Usage: messages.py PLAN, with `echo`, URLs through the proxy to an echo server, or `raw`, URLs through it to
raw-backend.py. For wss, SSL_CERT_FILE is trusted.
"""

import asyncio
import hashlib
import itertools
import json
import os
import socket
import ssl
import traceback
import urllib.parse
import zlib

from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from common import plan, tell
from frames import BINARY, CLOSE, FIN, RSV1, TEXT, close, frame, parse

CHECK_DEADLINE = 90
HUGE = 64 << 20
TINY = 10_000


def opening(url, **options):
    return connect(url, max_size=2 * HUGE, ping_interval=None, **options)


async def a_message_of_64_mebibytes_goes_each_way(url):
    message = os.urandom(1 << 20) * (HUGE >> 20)
    async with opening(url, compression=None) as client:
        sent = hashlib.sha256(message).digest()
        await client.send(message)
        echo = await client.recv()
        assert len(echo) == HUGE and hashlib.sha256(echo).digest() == sent


async def a_text_of_64_mebibytes_goes_each_way_in_fragments(url):
    # A 4-byte code point spans every boundary between two fragments.
    part = "🚆" * 9999 + "xyz"
    async with opening(url, compression=None) as client:
        parts = HUGE // len(part.encode()) + 1
        await client.send(part for _ in range(parts))
        assert await client.recv() == part * parts


async def tiny_messages_arrive_one_by_one(url):
    kinds = ["", b"", "x", b"\xff"]
    tiny = [kinds[number % len(kinds)] for number in range(TINY)]
    async with opening(url) as client:
        for message in tiny:
            await client.send(message)
        assert [await client.recv() for _ in tiny] == tiny


async def writes_of_one_byte_are_put_together(url):
    await asyncio.to_thread(write_one_by_one, url)


def write_one_by_one(url):
    """Each byte is a separate segment, and over TLS a separate record."""
    address = urllib.parse.urlsplit(url)
    stream = socket.create_connection((address.hostname, address.port), CHECK_DEADLINE)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.scheme == "wss":
        stream = ssl.create_default_context().wrap_socket(stream, server_hostname=address.hostname)
    request = (
        f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    sent = [(TEXT, b"hello"), (BINARY, bytes(300)), (TEXT, b""), (BINARY, os.urandom(2000))]
    for byte in request.encode():
        stream.sendall(bytes([byte]))
    received = b""
    while b"\r\n\r\n" not in received:
        received += stream.recv(1)
    for byte in b"".join(frame(opcode, payload) for opcode, payload in sent) + close():
        stream.sendall(bytes([byte]))
    received = b"".join(iter(lambda: stream.recv(4096), b""))
    stream.close()
    frames, rest = parse(received)
    expected = [(FIN | opcode, payload) for opcode, payload in sent] + [(FIN | CLOSE, b"\x03\xe8")]
    assert (frames, rest) == (expected, b""), frames


async def compression_is_agreed_on_end_to_end(url):
    message = "compress me, " * 20
    offer = ClientPerMessageDeflateFactory(
        server_max_window_bits=11, client_max_window_bits=12, server_no_context_takeover=True
    )
    async with opening(url, compression=None, extensions=[offer]) as client:
        offered = client.request.headers["Sec-WebSocket-Extensions"]
        agreed = "permessage-deflate; server_max_window_bits=11; client_max_window_bits=12; server_no_context_takeover"
        assert client.response.headers.get_all("Sec-WebSocket-Extensions") == [agreed]
        await client.send(message)
        # It arrived compressed: the client has decompressed it.
        saw = json.loads(await client.recv())
        assert saw["offered"] == offered, saw
        assert saw["first_byte"] == FIN | RSV1 | TEXT, saw
        payload = bytes.fromhex(saw["payload"]) + b"\x00\x00\xff\xff"
        assert zlib.decompressobj(wbits=-12).decompress(payload).decode() == message


CHECKS = {
    "echo": [
        a_message_of_64_mebibytes_goes_each_way,
        a_text_of_64_mebibytes_goes_each_way_in_fragments,
        tiny_messages_arrive_one_by_one,
        writes_of_one_byte_are_put_together,
    ],
    "raw": [compression_is_agreed_on_end_to_end],
}


async def main():
    urls, found = plan(), {}
    for kind, checks in CHECKS.items():
        for url, check in itertools.product(urls.get(kind, []), checks):
            title = f"{urllib.parse.urlsplit(url).scheme} {check.__name__}"
            try:
                await asyncio.wait_for(check(url), CHECK_DEADLINE)
                found[title] = None
            except Exception:
                found[title] = traceback.format_exc()
    tell(found)


asyncio.run(main())
