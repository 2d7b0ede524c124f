"""The PyPI package `websockets` as a client: messages, fragments, pings, compression, subprotocols and closes.

Usage: websockets_client.py PLAN, where PLAN is JSON with `origins` and `backends`. Prints one line of JSON: which checks
passed, and why the others failed.
"""

import asyncio
import json
import os
import sys
import traceback
import uuid

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

CHECK_DEADLINE = 20
MEBIBYTE = 1 << 20


def opening(origin, path="/ws", **options):
    return connect(origin.replace("http", "ws", 1) + path, max_size=2 * MEBIBYTE, **options)


async def ask(socket, question):
    await socket.send(question)
    return await socket.recv()


async def messages_are_echoed(origin, _):
    async with opening(origin) as socket:
        for message in ["größer 🚆", b"\x00\xff\x88\x89", "", os.urandom(MEBIBYTE)]:
            assert await ask(socket, message) == message


async def fragmented_messages_arrive_as_one(origin, _):
    async with opening(origin) as socket:
        assert await ask(socket, ["one ", "two ", "three"]) == "one two three"
        assert await ask(socket, "/fragments") == "one two three"
        await socket.send("/fragments")
        assert [part async for part in socket.recv_streaming()] == ["one ", "two ", "three"]


async def pings_are_answered_both_ways(origin, _):
    async with opening(origin) as socket:
        await (await socket.ping("tick"))
        assert await ask(socket, "/ping tock") == "pong tock"


async def permessage_deflate_is_negotiated_end_to_end(origin, _):
    async with opening(origin) as socket:
        assert "permessage-deflate" in await ask(socket, "/extensions")
        assert await ask(socket, "x" * MEBIBYTE) == "x" * MEBIBYTE
    async with opening(origin, compression=None) as socket:
        assert await ask(socket, "/extensions") == ""


async def the_backend_chooses_the_subprotocol(origin, _):
    async with opening(origin, subprotocols=["chat.v2", "chat.v1"]) as socket:
        assert socket.subprotocol == "chat.v1"


async def a_close_of_the_backend_arrives(origin, _):
    async with opening(origin) as socket:
        try:
            await ask(socket, "/close 4001 see you later")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "see you later")
            return
    raise AssertionError("no close arrived")


async def a_close_of_the_client_arrives(origin, _):
    name = uuid.uuid4()
    async with opening(origin, path=f"/ws?id={name}") as socket:
        # The session cookie leads a second socket to the same backend, which reports how the first one ended.
        cookies = [field.split(";")[0] for field in socket.response.headers.get_all("Set-Cookie")]
        async with opening(origin, additional_headers=[("Cookie", cookie) for cookie in cookies]) as observer:
            await socket.close(4002, "that is all")
            assert (socket.close_code, socket.close_reason) == (4002, "that is all")
            assert json.loads(await ask(observer, f"/end-of {name}")) == {"code": 4002, "reason": "that is all"}


async def all_backends_have_their_share(origin, backends):
    sockets = await asyncio.gather(*(opening(origin) for _ in range(12)))
    names = {await ask(socket, "/name") for socket in sockets}
    assert len(names) == backends, names
    await asyncio.gather(*(socket.close() for socket in sockets))


CHECKS = [
    messages_are_echoed,
    fragmented_messages_arrive_as_one,
    pings_are_answered_both_ways,
    permessage_deflate_is_negotiated_end_to_end,
    the_backend_chooses_the_subprotocol,
    a_close_of_the_backend_arrives,
    a_close_of_the_client_arrives,
    all_backends_have_their_share,
]


async def main():
    plan = json.loads(sys.argv[1])
    passed, failed = [], {}
    for origin in plan["origins"]:
        for check in CHECKS:
            title = f"{origin.partition('//')[0]} {check.__name__}"
            try:
                await asyncio.wait_for(check(origin, plan["backends"]), CHECK_DEADLINE)
                passed.append(title)
            except Exception:
                failed[title] = traceback.format_exc()
    print(json.dumps({"passed": passed, "failed": failed}))


asyncio.run(main())
