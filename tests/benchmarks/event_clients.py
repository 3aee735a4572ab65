"""The clients of the events benchmark, one process a role: `event_clients KIND ROLE OPTIONS`.

A subscriber process has all subscriptions, each on a connection of its own. It says when they
are ready, then what came: how much, and when the last (on the clock that all processes of a host
share). A publisher says when it began, and when everything was confirmed.
"""

from __future__ import annotations

import asyncio
import json
import select
import sys
import time
from typing import Any

TOPIC = "bench.a"
WINDOW = 8192
"""Events that a publisher has unconfirmed at most."""
_MQTT_WINDOW = 1000  # with more, the library itself gets slow
CHUNK = 256
"""Events that it publishes at a time."""
_QUIET = 15.0  # seconds without an event, after which no more are waited for
_PAUSE = 0.2


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class Count:
    """What a subscriber process has received."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.expected = options["count"] * options["subscribers"]
        self.received = 0
        self.last = 0.0

    def add(self, number: int) -> None:
        self.received += number
        self.last = time.monotonic()

    @property
    def over(self) -> bool:
        quiet = self.received and time.monotonic() - self.last > _QUIET
        return bool(self.received >= self.expected or quiet)

    def tell(self) -> None:
        say(received=self.received, last=self.last)


# --- ours ----------------------------------------------------------------------------------


async def jetstream_subscribe(reactor: Any, options: dict[str, Any]) -> None:
    from twisted.internet.task import deferLater

    from jetstreamproto import EventClient, Policy

    count = Count(options)
    policy = Policy.PAUSE if options["durable"] else Policy.DROP

    def take(subscription: Any, events: list[Any]) -> None:
        count.add(len(events))
        listen(subscription)

    def listen(subscription: Any) -> None:
        subscription.get_many().addCallback(lambda events: take(subscription, events))

    for _ in range(options["subscribers"]):
        session = await _session(reactor, options)
        listen(await EventClient(session).subscribe(TOPIC, policy=policy))
    say(ready=True)
    while not count.over:
        await deferLater(reactor, _PAUSE)
    count.tell()


async def jetstream_publish(reactor: Any, options: dict[str, Any]) -> None:
    from jetstreamproto import EventClient

    client = EventClient(await _session(reactor, options), timeout=600)
    if options["durable"]:
        await client.add_stream("bench", ["bench.>"])
        say(ready=True)
        sys.stdin.readline()
    payload = b"x" * options["size"]
    waiting = []
    start = time.monotonic()
    for _ in range(options["count"] // CHUNK):
        for _ in range(CHUNK):
            last = client.publish(TOPIC, payload)
        waiting.append(last)  # one by one, as the peers do; they are confirmed in order
        if len(waiting) > WINDOW // CHUNK:
            await waiting.pop(0)
    for each in waiting:
        await each
    say(start=start, confirmed=time.monotonic())


async def _session(reactor: Any, options: dict[str, Any]) -> Any:
    from pathlib import Path

    from jetstreamproto import Identity, PinnedKeys, connect

    trust = PinnedKeys([Identity.from_files(Path(options["certificate"])).fingerprint])
    return await connect(reactor, "127.0.0.1", options["port"], trust, transport="tcp")


def run_jetstream(role: str, options: dict[str, Any]) -> None:
    from twisted.internet import task

    task.react(lambda reactor: _ours(reactor, role, options))


async def _ours(reactor: Any, role: str, options: dict[str, Any]) -> None:
    work = jetstream_subscribe if role == "subscribe" else jetstream_publish
    await work(reactor, options)


# --- mosquitto, by paho-mqtt ------------------------------------------------------------------


def run_mosquitto(role: str, options: dict[str, Any]) -> None:
    qos = 1 if options["durable"] else 0
    if role == "subscribe":
        _mqtt_subscribe(options, qos)
    else:
        _mqtt_publish(options, qos)


def _mqtt_client(options: dict[str, Any]) -> Any:
    from paho.mqtt import client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(_MQTT_WINDOW)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", options["port"])
    return client


def _mqtt_subscribe(options: dict[str, Any], qos: int) -> None:
    """All clients in one thread, as their library's loops are meant to be driven from outside."""
    count = Count(options)
    clients: dict[int, Any] = {}
    ready: list[int] = []
    for _ in range(options["subscribers"]):
        client = _mqtt_client(options)
        client.on_message = lambda *_: count.add(1)
        client.on_subscribe = lambda *_: ready.append(1)
        client.subscribe(TOPIC.replace(".", "/"), qos)
        clients[client.socket().fileno()] = client
    told = False
    while not count.over:
        writers = [number for number, client in clients.items() if client.want_write()]
        readable, writable, _ = select.select(clients, writers, [], _PAUSE)
        for number in readable:
            clients[number].loop_read(1000)
        for number in writable:
            clients[number].loop_write()
        for client in clients.values():
            client.loop_misc()
        if not told and len(ready) == len(clients):
            told = True
            say(ready=True)
    count.tell()


def _mqtt_publish(options: dict[str, Any], qos: int) -> None:
    client = _mqtt_client(options)
    confirmed = []
    client.on_publish = lambda *_: confirmed.append(1)
    client.loop_start()
    payload, topic = b"x" * options["size"], TOPIC.replace(".", "/")
    start = time.monotonic()
    for number in range(options["count"]):
        client.publish(topic, payload, qos)
        while number - len(confirmed) > _MQTT_WINDOW:
            time.sleep(0.0005)
    while len(confirmed) < options["count"]:
        time.sleep(0.0005)
    say(start=start, confirmed=time.monotonic())
    client.loop_stop()


# --- nats-server, by nats-py ------------------------------------------------------------------


def run_nats(role: str, options: dict[str, Any]) -> None:
    asyncio.run(_nats_subscribe(options) if role == "subscribe" else _nats_publish(options))


async def _nats_subscribe(options: dict[str, Any]) -> None:
    import nats

    count = Count(options)

    async def received(_message: Any) -> None:
        count.add(1)

    for _ in range(options["subscribers"]):
        connection = await nats.connect(f"nats://127.0.0.1:{options['port']}")
        limits = {"pending_msgs_limit": 1 << 24, "pending_bytes_limit": 1 << 30}
        if options["durable"]:
            stream = connection.jetstream()
            await stream.subscribe(TOPIC, cb=received, ordered_consumer=True, **limits)
        else:
            await connection.subscribe(TOPIC, cb=received, **limits)
            await connection.flush()
    say(ready=True)
    while not count.over:
        await asyncio.sleep(_PAUSE)
    count.tell()


async def _nats_publish(options: dict[str, Any]) -> None:
    import nats

    connection = await nats.connect(f"nats://127.0.0.1:{options['port']}")
    payload = b"x" * options["size"]
    if not options["durable"]:
        start = time.monotonic()
        for number in range(options["count"]):
            await connection.publish(TOPIC, payload)
            if number % WINDOW == 0:
                await connection.flush()
        await connection.flush()
        say(start=start, confirmed=time.monotonic())
        return
    stream = connection.jetstream(publish_async_max_pending=WINDOW, timeout=60)
    await stream.add_stream(name="bench", subjects=["bench.>"])
    say(ready=True)
    await asyncio.to_thread(sys.stdin.readline)
    start = time.monotonic()
    for _ in range(options["count"]):
        await stream.publish_async(TOPIC, payload)
    await stream.publish_async_completed()
    say(start=start, confirmed=time.monotonic())


def main() -> None:
    kind, role, options = sys.argv[1:]
    run = {"jetstream": run_jetstream, "mosquitto": run_mosquitto, "nats": run_nats}[kind]
    run(role, json.loads(options))


if __name__ == "__main__":
    main()
