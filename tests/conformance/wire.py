"""Bytes that no library sends, against a server directly and through the proxy: violations of RFC 6455, ends in the
middle of something, data after a close, and random streams split at random.

Usage: wire.py PLAN. The proxy passes if the client sees the same frames, the same close and the same end of TCP as
without it; over TLS, a connection that ends without close_notify counts as reset.
"""

import itertools
import random
import zlib

from common import compare
from frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Socket, close, frame

SEEDS = range(60)
# Around each limit of the three length forms.
LENGTHS = [0, 1, 2, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 200_000]
OFFERS = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
    "permessage-deflate; server_max_window_bits=8, permessage-deflate",
]
ENDLESS = itertools.repeat(1)
NORMAL = close()


def breaches():
    """Protocol violations for which a server must or may fail the connection: bytes by name."""
    found = {
        "an unmasked message": frame(TEXT, b"hello", mask=False),
        "an unmasked ping": frame(PING, b"hello", mask=False),
        "an unmasked close": frame(CLOSE, b"\x03\xe8", mask=False),
        "a continuation of nothing": frame(CONTINUATION, b"hello"),
        "an unfinished continuation of nothing": frame(CONTINUATION, b"hello", fin=False),
        "a message within a message": frame(TEXT, b"one", fin=False) + frame(TEXT, b"two"),
        "a fragmented ping": frame(PING, b"one", fin=False) + frame(CONTINUATION, b"two"),
        "a fragmented close": frame(CLOSE, b"\x03\xe8", fin=False) + frame(CONTINUATION, b"two"),
        "a ping of 126 bytes": frame(PING, bytes(126)),
        "a pong of 65536 bytes": frame(PONG, bytes(65536)),
        "a close of 126 bytes": frame(CLOSE, b"\x03\xe8" + b"x" * 124),
        "a close of 1 byte": frame(CLOSE, b"\x03"),
        "a close with a reason that is not UTF-8": close(1000, b"\xff\xfe"),
        "a close with a cut code point": close(1000, b"\xe2\x82"),
        "a message that is not UTF-8": frame(TEXT, b"\xce\xba\xed\xa0\x80edited"),
        "a message that ends within a code point": frame(TEXT, b"\xe2\x82"),
        "a message that is not UTF-8 only when put together": frame(TEXT, b"\xe2", fin=False)
        + frame(CONTINUATION, b"\x28\xa1"),
    }
    for opcode in [*range(3, 8), *range(11, 16)]:
        found[f"opcode {opcode}"] = frame(opcode, b"hello")
    for rsv, opcode in itertools.product(range(1, 8), [TEXT, CLOSE, PING]):
        found[f"reserved bits {rsv} on opcode {opcode}"] = frame(opcode, b"\x03\xe8", rsv=rsv)
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]:
        found[f"a close with the code {code}"] = close(code)
    return found


def allowed():
    """Valid input that a server answers with a message or a close: bytes by name, and the number of messages."""
    found = {
        "5 bytes with a length of 2 bytes": (frame(TEXT, b"hello", form=2), 1),
        "5 bytes with a length of 8 bytes": (frame(TEXT, b"hello", form=8), 1),
        "300 bytes with a length of 8 bytes": (frame(BINARY, bytes(300), form=8), 1),
        "a ping with a length of 2 bytes": (frame(PING, b"hello", form=2), 0),
        "empty fragments": (
            frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION, b"end"),
            1,
        ),
        "a ping between fragments": (
            frame(TEXT, b"one ", fin=False) + frame(PING, b"tick") + frame(CONTINUATION, b"two"),
            1,
        ),
        "a pong that nobody asked for": (frame(PONG, b"tock"), 0),
        "a ping of 125 bytes": (frame(PING, bytes(125)), 0),
        "ten pings": (b"".join(frame(PING, bytes([number])) for number in range(10)), 0),
    }
    for length, opcode in itertools.product(LENGTHS, [TEXT, BINARY]):
        found[f"{length} bytes of opcode {opcode}"] = (frame(opcode, b"*" * length), 1)
    return found


CLOSES = {
    "no code": frame(CLOSE),
    "a reason of 123 bytes": close(1000, b"x" * 123),
    "a reason beyond ASCII": close(1001, "größer 🚆".encode()),
    **{f"the code {code}": close(code) for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011]},
    **{f"the code {code}": close(code, b"why") for code in [1012, 1013, 1014, 3000, 3999, 4000, 4999]},
}


async def breach(url, data, sizes=(), after=b"", offer=None):
    """The violation, after a message that was echoed; the rest is up to the server."""
    socket = await Socket.open(url, offer)
    await socket.send(frame(TEXT, b"before"))
    await socket.messages(1)
    await socket.send(data + after, sizes)
    return await socket.ended()


async def talk(url, data, messages, sizes=(), end=NORMAL):
    """Something allowed, all responses to it, and then a close."""
    socket = await Socket.open(url)
    await socket.send(data, sizes)
    await socket.messages(messages)
    await socket.send(end, sizes)
    socket.closed = True
    return await socket.ended()


async def cut(url, data):
    """The client closes its direction of TCP, in the middle of something."""
    socket = await Socket.open(url)
    await socket.send(frame(TEXT, b"before"))
    await socket.messages(1)
    await socket.send(data)
    await socket.finish()
    return await socket.ended()


async def stray(url, seed):
    """A random stream of valid frames, split into random writes. Every message is echoed unchanged."""
    chance = random.Random(seed)
    offer = chance.choice([None, *OFFERS])
    socket = await Socket.open(url, offer)
    compress = compressor(socket.extensions)
    stream = b""
    sent = []
    for _ in range(chance.randint(1, 12)):
        opcode, length = chance.choice([TEXT, BINARY]), chance.choice([*LENGTHS, chance.randint(0, 5000)])
        # Compresses to something between nothing and everything.
        payload = bytes(chance.choices(range(32, 127), k=min(length, 997))) * (length // 997 + 1)
        sent.append((opcode, payload[:length]))
        rsv, wire = compress(payload[:length], chance.random() < 0.8)
        stream += b"".join(fragments(chance, opcode, rsv, wire))
    # In a few large pieces, or in many small ones.
    largest = chance.choice([1, 7, 1000, 70_000])
    await socket.send(stream, (chance.randint(1, largest) for _ in range(5000)))
    await socket.messages(len(sent))
    assert messages(socket) == sent, "not what was sent"
    await socket.send(close(chance.choice([1000, 1001, 3000, 4999]), b"done"))
    socket.closed = True
    return await socket.ended()


def fragments(chance, opcode, rsv, payload):
    """The message in a random number of fragments, with pings between them."""
    cuts = sorted(chance.randint(0, len(payload)) for _ in range(chance.choice([0, 0, 1, 3, 20])))
    bounds = list(itertools.pairwise([0, *cuts, len(payload)]))
    for number, (begin, end) in enumerate(bounds):
        first, last = number == 0, number == len(bounds) - 1
        yield frame(opcode if first else CONTINUATION, payload[begin:end], fin=last, rsv=rsv if first else 0)
        if chance.random() < 0.2:
            yield frame(PING, chance.randbytes(chance.randint(0, 125)))


def compressor(extensions):
    """Compresses as negotiated (RFC 7692): returns the reserved bits and the payload."""
    bits = parameter(extensions, "client_max_window_bits")
    forgets = "client_no_context_takeover" in extensions
    state = zlib.compressobj(wbits=-bits)

    def compress(payload, wanted):
        nonlocal state
        if not extensions or not wanted:
            return 0, payload
        if forgets:
            state = zlib.compressobj(wbits=-bits)
        return 4, (state.compress(payload) + state.flush(zlib.Z_SYNC_FLUSH))[:-4]

    return compress


def parameter(extensions, name):
    values = dict(part.strip().partition("=")[::2] for part in extensions.split(";"))
    return int(values.get(name) or 15)


def messages(socket):
    """The messages received, decompressed."""
    forgets = "server_no_context_takeover" in socket.extensions
    state = zlib.decompressobj(wbits=-15)
    found = []
    for first, payload in socket.frames():
        opcode = first & 0x0F
        if opcode >= CLOSE:
            continue
        if opcode != CONTINUATION:
            found.append([opcode, first & 0x40, b""])
        found[-1][2] += payload
        if first & 0x80 and found[-1][1]:
            if forgets:
                state = zlib.decompressobj(wbits=-15)
            found[-1][2] = state.decompress(found[-1][2] + b"\x00\x00\xff\xff")
    return [(opcode, payload) for opcode, _, payload in found]


def cases(url):
    """All cases, by name."""
    for name, data in breaches().items():
        yield name, breach(url, data)
        yield f"{name}, in writes of 1 byte", breach(url, data, ENDLESS if len(data) < 1000 else ())
        yield f"{name}, with more behind it", breach(url, data, after=frame(TEXT, b"after") + frame(PING))
    for name, (data, count) in allowed().items():
        yield name, talk(url, data, count)
        if len(data) < 1000:
            yield f"{name}, in writes of 1 byte", talk(url, data, count, ENDLESS)
    yield "30000 bytes, in writes of 1 byte", talk(url, frame(BINARY, b"*" * 30_000), 1, ENDLESS)
    for name, data in CLOSES.items():
        yield f"a close with {name}", talk(url, b"", 0, end=data)
    behind = {"a message": frame(TEXT, b"x"), "a ping": frame(PING), "a close": close(), "noise": b"\xff" * 9}
    for name, data in behind.items():
        yield f"a close with {name} behind it", talk(url, b"", 0, end=close() + data)
    whole = frame(BINARY, bytes(300))
    for length in [0, 1, 2, 3, 4, 7, 8, 9, 150, len(whole) - 1, len(whole)]:
        yield f"an end after {length} bytes of a frame", cut(url, whole[:length])
    yield "an end within a message", cut(url, frame(TEXT, b"one", fin=False))
    yield "an end behind a close", cut(url, close())
    # Some servers wait for all of it.
    yield "an end within a length beyond 63 bits", cut(url, b"\x82\xff" + b"\xff" * 8 + b"mask" + b"hello")
    for offer in OFFERS:
        yield f"{offer}: a damaged message", breach(url, frame(TEXT, b"\xff" * 20, rsv=4), offer=offer)
        yield f"{offer}: a compressed ping", breach(url, frame(PING, b"x", rsv=4), offer=offer)
        late = frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", rsv=4)
        yield f"{offer}: RSV1 on a continuation", breach(url, late, offer=offer)
    for seed in SEEDS:
        yield f"random stream {seed}", stray(url, seed)


if __name__ == "__main__":
    compare(cases)
