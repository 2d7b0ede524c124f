"""A backend that works on bytes: it accepts permessage-deflate, and answers the first frame with a description of it.

The answer is compressed too, so that the reverse direction is tested as well. Prints its port, and stops when its stdin
is closed. Frames have at most 125 bytes of payload, as the test ensures.
"""

import asyncio
import base64
import hashlib
import json
import sys
import zlib

ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# A code that no library sends by itself, so it must come from here.
AGREED = "permessage-deflate; server_max_window_bits=11; client_max_window_bits=12; server_no_context_takeover"


def fields_of(head):
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


async def read_frame(reader):
    first, second = await reader.readexactly(2)
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(second & 0x7F)
    return first, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def compressed_frame(text):
    compressor = zlib.compressobj(wbits=-11)
    payload = (compressor.compress(text.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    return b"\xc1\x7e" + len(payload).to_bytes(2, "big") + payload


async def serve(reader, writer):
    fields = fields_of(await reader.readuntil(b"\r\n\r\n"))
    digest = hashlib.sha1(fields["sec-websocket-key"].encode() + ACCEPT_SUFFIX).digest()
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        + f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n".encode()
        + f"Sec-WebSocket-Extensions: {AGREED}\r\n\r\n".encode()
    )
    first, payload = await read_frame(reader)
    saw = {"offered": fields.get("sec-websocket-extensions"), "first_byte": first, "payload": payload.hex()}
    saw["padding"] = "." * 300
    writer.write(compressed_frame(json.dumps(saw)))
    _, close = await read_frame(reader)
    writer.write(bytes([0x88, len(close)]) + close)
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


asyncio.run(main())
