"""WebSocket frames as bytes (RFC 6455, section 5.2), and a connection that sends bytes and records what comes back."""

import asyncio
import hashlib
import itertools
import socket
import struct

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1 = 0x80, 0x40


def masked(payload, key):
    keys = int.from_bytes((key * (len(payload) // 4 + 1))[: len(payload)], "big")
    return (int.from_bytes(payload, "big") ^ keys).to_bytes(len(payload), "big")


def frame(opcode, payload=b"", fin=True, rsv=0, mask=True, form=None):
    """A frame; `form` is the number of extended length bytes (0, 2 or 8), by default the fewest possible."""
    if form is None:
        form = 0 if len(payload) < 126 else 2 if len(payload) < 1 << 16 else 8
    length = len(payload) if form == 0 else {2: 126, 8: 127}[form]
    head = bytes([fin * FIN | rsv << 4 | opcode, mask * 0x80 | length])
    if form:
        head += len(payload).to_bytes(form, "big")
    if not mask:
        return head + payload
    key = hashlib.sha256(head + payload[:16]).digest()[:4]
    return head + key + masked(payload, key)


def close(code=1000, reason=b""):
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def parse(received):
    """The complete frames at the start of these bytes (first byte, payload), and the remaining bytes."""
    frames, at = [], 0
    while len(received) >= at + 2:
        length, begin = received[at + 1] & 0x7F, at + 2
        form = {126: 2, 127: 8}.get(length, 0)
        if form:
            length, begin = int.from_bytes(received[begin : begin + form], "big"), begin + form
        if received[at + 1] & 0x80 or len(received) < begin + length:
            break
        frames.append((received[at], bytes(received[begin : begin + length])))
        at = begin + length
    return frames, bytes(received[at:])


class Connection(asyncio.Protocol):
    """Everything received, and how the other side ended it."""

    def __init__(self):
        self.received = bytearray()
        self.end = None
        self.changed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data
        self.changed.set()

    def eof_received(self):
        self.ended("FIN")
        return True

    def connection_lost(self, error):
        self.ended("reset" if error else "FIN")

    def ended(self, how):
        self.end = self.end or how
        self.changed.set()
        self.writable.set()

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def reset(self):
        """Closes it at once, so that the other side gets a reset."""
        at_once = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.transport.abort()

    async def until(self, reached):
        """Waits for `reached()`, or for the end."""
        while not reached() and not self.end:
            self.changed.clear()
            await self.changed.wait()

    async def send(self, data, sizes=()):
        """Writes this in pieces of these sizes, and the rest in one."""
        for size in itertools.chain(sizes, [len(data)]):
            if not data or self.end:
                return
            self.transport.write(data[:size])
            data = data[size:]
            # Also lets received data be processed, and the pieces be sent separately.
            await asyncio.sleep(0)
            await self.writable.wait()


class Socket:
    """A WebSocket whose client does nothing by itself, except responding to a close, once."""

    @classmethod
    async def open(cls, url, offer=None, query=""):
        host, port = url.removeprefix("ws://").rstrip("/").split(":")
        _, connection = await asyncio.get_running_loop().create_connection(Connection, host, int(port))
        self = cls()
        self.connection, self.closed, self.taken = connection, False, []
        offered = f"Sec-WebSocket-Extensions: {offer}\r\n" if offer else ""
        request = (
            f"GET /{query} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offered}\r\n"
        )
        await connection.send(request.encode())
        await connection.until(lambda: b"\r\n\r\n" in connection.received)
        head, _, rest = bytes(connection.received).partition(b"\r\n\r\n")
        connection.received[:] = rest
        status, *fields = head.decode("latin-1").split("\r\n")
        fields = dict(field.lower().split(": ", 1) for field in fields)
        self.status = status.split()[1]
        self.extensions = fields.get("sec-websocket-extensions", "")
        return self

    async def send(self, data, sizes=()):
        await self.connection.send(data, sizes)

    def frames(self):
        """The complete frames received."""
        frames, rest = parse(self.connection.received)
        if frames:
            self.taken += frames
            self.connection.received[:] = rest
        return self.taken

    def closes(self):
        return [payload for first, payload in self.frames() if first & 0x0F == CLOSE]

    async def messages(self, count):
        """Waits for this many messages, or a close."""

        def arrived():
            return sum(first & FIN != 0 and first & 0x0F < CLOSE for first, _ in self.frames())

        await self.connection.until(lambda: self.closes() or arrived() >= count)

    async def finish(self):
        """Stops sending."""
        self.closed = True
        if not self.connection.end:
            self.connection.transport.write_eof()

    async def ended(self):
        """Reads to the end, responding to the other side's close, and returns a summary."""
        await self.connection.until(self.closes)
        for payload in self.closes()[:1]:
            if not self.closed and not self.connection.transport.is_closing():
                await self.send(frame(CLOSE, payload))
        await self.connection.until(lambda: False)
        self.connection.transport.abort()
        frames = self.frames()
        # A server may answer a ping before or after the message next to it: data and control frames are compared
        # separately.
        return {
            "status": self.status,
            "extensions": self.extensions,
            "data": [told(each) for each in frames if each[0] & 0x0F < CLOSE],
            "control": [told(each) for each in frames if each[0] & 0x0F >= CLOSE],
            "rest": self.connection.received.hex(),
            "end": self.connection.end,
        }


def told(each):
    """A frame in short: first byte, length, and its content or a digest of it."""
    first, payload = each
    content = payload.hex() if len(payload) < 30 else hashlib.sha256(payload).hexdigest()[:16]
    return f"{first:02x} {len(payload)} {content}"
