"""python-socketio: two servers and an emitter that find each other through Redis."""

from __future__ import annotations

import asyncio

import socketio


class Server(socketio.AsyncServer):
    """Keeps what would be sent to a browser."""

    def __init__(self, manager):
        super().__init__(client_manager=manager, async_mode="asgi")
        self.sent = []

    async def _send_packet(self, eio_sid, pkt):
        self.sent.append((eio_sid, pkt.data))

    async def _send_eio_packet(self, eio_sid, eio_pkt):
        self.sent.append((eio_sid, str(eio_pkt.data)))


async def until(what):
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.02)


async def run(url):
    managers = [socketio.AsyncRedisManager(url) for _ in range(2)]
    servers = [Server(manager) for manager in managers]
    for number, (server, manager) in enumerate(zip(servers, managers, strict=True)):
        manager.set_server(server)
        manager.initialize()
        server.manager_initialized = True
        sid = await manager.connect(f"eio{number}", "/")
        await manager.enter_room(sid, "/", "all")
        await manager.enter_room(sid, "/", f"only{number}")
    emitter = socketio.AsyncRedisManager(url, write_only=True)
    # The subscriptions take a moment, and nothing says when they hold.
    await asyncio.sleep(1)
    await emitter.emit("news", {"a": 1}, room="all")
    await until(lambda: all(server.sent for server in servers))
    seen = {"to all": [server.sent[:] for server in servers]}
    await servers[0].emit("own", [1, 2], room="only1")
    await until(lambda: len(servers[1].sent) == 2)
    seen["across"] = [server.sent[1:] for server in servers]
    for n in range(50):
        await emitter.emit("n", n, room="all")
    await until(lambda: len(servers[0].sent) == 51)
    await until(lambda: len(servers[1].sent) == 52)
    seen["fifty"] = [server.sent[-50:] for server in servers]
    await emitter.close_room("all")
    await emitter.emit("last", 1, room="all")
    await emitter.emit("last", 2, room="only0")
    await until(lambda: len(servers[0].sent) == 52)
    seen["closed room"] = [server.sent[-1] for server in servers]
    for manager in managers:
        manager.thread.cancel()
        await asyncio.gather(manager.thread, return_exceptions=True)
        await manager.redis.aclose()
    await emitter.redis.aclose()
    return seen
