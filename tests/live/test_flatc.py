"""Our codecs against `flatc`, the reference implementation's compiler, by way of JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import unittest
from enum import IntEnum
from importlib import resources
from pathlib import Path
from typing import Any

from jetstreamproto.services.chat import messages as chat
from jetstreamproto.services.chat.model.notice import Member, Notice, NoticeKind
from jetstreamproto.services.events import messages as events
from jetstreamproto.services.events.model.event import Policy, Start
from jetstreamproto.services.events.model.streams import StreamConfig
from jetstreamproto.services.files import messages as files
from jetstreamproto.services.kv import messages as kv
from jetstreamproto.services.rpc.messages import encode_call, split_frames
from jetstreamproto.services.tunnel.messages import REPLY, REQUEST, Purpose, Reply, Request
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.packet import Flag, Kind, encode_head, split_packets
from jetstreamproto.wire.session_messages import HELLO, OPEN, Hello, Mode, Open
from tests.unit.wire.test_layout_oracle import (
    POOR,
    RICH,
    RICH_SCHEMA,
    Box,
    Color,
    Leaf,
    Level,
    Node,
    Point,
    Rich,
)

FULL = Rich(
    flag=False,
    tiny=-128,
    small=-32768,
    medium=-5,
    large=(1 << 63) - 1,
    utiny=0,
    usmall=65535,
    umedium=(1 << 32) - 1,
    ularge=(1 << 64) - 2,
    ratio=0.25,
    exact=-1234.5,
    color=Color.BLUE,
    level=Level.LOW,
    number=1,
    box=Box(Point(1.5, 2.5, 3), Point(-1.0, -2.0, -3), Level.HIGH, 513),
    origin=Point(0.5, 8.0, 127),
    title="title",
    note='"quoted" \\ and\nlines',
    remark="grüß dich, 世界 🌍",
    data=bytes(range(7)),
    view=memoryview(b"view"),
    maybe=b"\xff",
    flags=(True, False, True),
    shorts=(-1, 0, 32767),
    longs=(0, (1 << 64) - 1),
    doubles=(0.5, -0.25, 1024.0),
    colors=(Color.RED, Color.BLUE, Color.GREEN),
    points=(Point(1.0, 2.0, 3), Point(4.0, 5.0, 6)),
    names=("one", "", "three"),
    leaf=Leaf("leaf", 12),
    node=Node(1, Leaf(None, 2), (Node(2), Node(3, None, (Node(4, Leaf("deep", 0)),)))),
    leaves=(Leaf("a"), Leaf("b", -1)),
)

_NOTICE = Notice(NoticeKind.RENAMED, "room", "Al", "Bö", "what\n", 1 << 60, 1 << 50)
_MEMBER = Member("Al", True, True)
_STREAM = events.Stream(
    StreamConfig("s", ("a.*", "b"), 1.5, 1 << 40, 7),
    1,
    1 << 33,
    3,
    1 << 40,
    (events.Consumer("c", "a.>", "g", 1 << 40, 5, 2), events.Consumer("d", "b")),
)
_KEYS = memoryview(b"bucket-key\1\0\0\0\0\0\0\0f")
SERVICES: tuple[tuple[str, str, Codec[Any], Any], ...] = (
    ("chat", "chat.Request", chat.REQUEST, chat.Request(9, 8, 7, 10, 1, "r", "n", "t", b"\0\xff")),
    (
        "chat",
        "chat.Answer",
        chat.ANSWER,
        chat.Answer(1 << 63, 2, 3, 4, True, "why", "n", "r", "t", (_MEMBER,) * 2, (_NOTICE,) * 2),
    ),
    ("chat", "chat.Notice", chat.NOTICE, _NOTICE),
    (
        "events",
        "events.Events",
        events.BATCH,
        events.Events(("a", "b"), (1, 0), (1, 3), b"xyz", 5, (6, 7), (1 << 40, 9), (1, 255)),
    ),
    ("events", "events.Published", events.PUBLISHED, events.Published((1, 1 << 63), b"\0\1")),
    ("events", "events.Refused", events.REFUSED, events.Refused(404, "grüß")),
    (
        "events",
        "events.Subscribe",
        events.SUBSCRIBE,
        events.Subscribe("a.*", Start.TIME, 1, Policy.PAUSE, 2, 3, "d", "g", 4, 5, 6, (7, 8)),
    ),
    ("events", "events.Subscribed", events.SUBSCRIBED, events.Subscribed("s", 1 << 40, 3)),
    ("events", "events.Ack", events.ACK, events.Ack((1, 2), events.Answer.GIVE_UP, 9)),
    (
        "events",
        "events.Manage",
        events.MANAGE,
        events.Manage(events.Action.ADD, _STREAM.config, "c"),
    ),
    ("events", "events.Streams", events.STREAMS, events.Streams((_STREAM, _STREAM))),
    (
        "kv",
        "Request",
        kv.REQUEST.codec,
        kv.RequestTable(-1, -(1 << 60), (1 << 32) - 1, 2, 3, 1, 1, 1, 33, 6, _KEYS),
    ),
    (
        "kv",
        "Reply",
        kv.REPLY.codec,
        kv.ReplyTable(1 << 60, 5, 6, 1, 1, 2, True, True, _KEYS[10:]),
    ),
    ("kv", "Entry", kv.ENTRY.codec, kv.EntryTable(7, 8, 10, 1, 1, 2, True, _KEYS)),
)
"""Schema, table, codec, and a value without defaults."""


def to_json(value: Any) -> Any:
    """As `flatc` shows `value`: enums by name, absent fields not at all."""
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, bytes | memoryview):
        return list(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
        return {name: to_json(item) for name, item in items if item is not None}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


class FlatcTests(unittest.TestCase):
    def setUp(self) -> None:
        flatc = shutil.which("flatc")
        if flatc is None:
            raise unittest.SkipTest("flatc is not installed")
        self.flatc = flatc
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def run_flatc(self, *arguments: str) -> None:
        done = subprocess.run(
            [self.flatc, *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stdout)

    def to_binary(self, schema: str, table: str, value: Any) -> bytes:
        """The buffer that `flatc` makes of a JSON value."""
        (self.directory / "schema.fbs").write_text(schema, "utf-8")
        (self.directory / "value.json").write_text(json.dumps(value), "utf-8")
        self.run_flatc("--binary", "--root-type", table, "schema.fbs", "value.json")
        return (self.directory / "value.bin").read_bytes()

    def to_value(self, schema: str, table: str, data: bytes, *options: str) -> Any:
        """The JSON value that `flatc` makes of a buffer."""
        (self.directory / "schema.fbs").write_text(schema, "utf-8")
        (self.directory / "value.bin").write_bytes(data)
        options = ("--json", "--strict-json", "--raw-binary", *options)
        self.run_flatc(*options, "--root-type", table, "schema.fbs", "--", "value.bin")
        return json.loads((self.directory / "value.json").read_text("utf-8"))

    def check(self, schema: str, table: str, codec: Codec[Any], value: Any) -> None:
        shown = to_json(value)
        self.assertEqual(codec.decode(self.to_binary(schema, table, shown)), value)
        self.assertEqual(self.to_value(schema, table, codec.encode(value)), shown)

    def test_everything_a_schema_can_say(self) -> None:
        shown = to_json(FULL)
        shown["number"] = "RED"  # An enum for flatc, an int for us.
        data = self.to_binary(RICH_SCHEMA, "test.rich.Rich", shown)
        self.assertEqual(RICH.decode(data), FULL)
        found = self.to_value(RICH_SCHEMA, "test.rich.Rich", RICH.encode(FULL))
        self.assertEqual(found, shown)

    def test_defaults(self) -> None:
        given = {"origin": {"x": 0, "y": 0, "tag": 0}, "title": "", "node": {}}
        data = self.to_binary(RICH_SCHEMA, "test.rich.Rich", given)
        self.assertEqual(RICH.decode(data), POOR)

    def test_the_session_messages(self) -> None:
        schema = schema_text("session.fbs")
        hello = Hello(1, 1 << 20, 100, 1 << 16, 1 << 33, True, "agent/1", "me", "")
        self.check(schema, "jetstream.Hello", HELLO, hello)
        self.check(schema, "jetstream.Hello", HELLO, hello._replace(username=None, password=None))
        self.check(schema, "jetstream.Open", OPEN, Open("echo", Mode.EXPIRING, 7, 1500, True))

    def test_the_tunnels_messages(self) -> None:
        schema = schema_text("tunnel.fbs")
        request = Request(Purpose.ACCEPTED, "::1", 65535, (1 << 32) - 1)
        self.check(schema, "jetstream.Request", REQUEST, request)
        self.check(schema, "jetstream.Reply", REPLY, Reply("127.0.0.1", 0))

    def test_the_messages_of_chat_events_and_key_value(self) -> None:
        for name, table, codec, value in SERVICES:
            with self.subTest(table):
                self.check(schema_text(f"{name}.fbs"), f"jetstream.{table}", codec, value)

    def test_what_is_written_and_read_without_a_codec(self) -> None:
        """Messages that are one `struct` call each, when they are laid out as ours are."""
        schema = schema_text("events.fbs")
        part = {"number": 1 << 40, "kind": "ACK", "version": 1, "body": [1, 2]}
        message = events.encode_part(events.Kind.ACK, b"\1\2", 1 << 40)
        self.assertEqual(self.to_value(schema, "jetstream.events.Part", message), part)
        data = self.to_binary(schema, "jetstream.events.Part", part)
        self.assertEqual(events.decode_part(data), (events.Kind.ACK, 1 << 40, b"\1\2"))
        message = kv.encode_request(16, "b", "k", id=7, names=["n"], values=[b"v"], ttl=9)
        shown = self.to_value(schema_text("kv.fbs"), "jetstream.Request", message)
        data = self.to_binary(schema_text("kv.fbs"), "jetstream.Request", shown)
        self.assertNotEqual(data, message)
        self.assertEqual(kv.read_request(data), kv.read_request(message))

    def test_the_messages_about_files(self) -> None:
        schema = schema_text("files.fbs")
        file = files.File("a/b", 1 << 40, True, -5, 0o640, files.Overwrite.NEVER, True)
        self.check(schema, "jetstream.files.File", files.FILE, file)
        have = files.Have(files.Verdict.SEND, 1 << 18, bytes(range(64)))
        self.check(schema, "jetstream.files.Have", files.HAVE, have)
        entry = files.Entry("x", files.EntryKind.LINK, 7, 1 << 62, 0o777)
        entries = files.Entries((entry, entry._replace(path="y")), 3)
        self.check(schema, "jetstream.files.Entries", files.ENTRIES, entries)

    def test_the_frames_of_calls(self) -> None:
        schema, table = schema_text("rpc.fbs"), "jetstream.rpc.Frame"
        frame = encode_call((1 << 32) - 1, 1500, b"a.B#c", b"\x80", b"\x90", 8)
        shown = {
            "call": (1 << 32) - 1,
            "number": 1500,
            "name_size": 5,
            "metadata_size": 1,
            "kind": "CALL",
            "flags": 8,
            "version": 1,
            "body": list(b"a.B#c\x80\x90"),
        }
        self.assertEqual(self.to_value(schema, table, frame, "--size-prefixed"), shown)
        data = self.to_binary(schema, table, shown)
        data = (len(data) + 4).to_bytes(4, "little") + (data[0] + 4).to_bytes(4, "little") + data
        ((*numbers, body),) = split_frames(data)
        self.assertEqual((numbers, bytes(body)), ([(1 << 32) - 1, 1500, 5, 1, 1, 8, 1], frame[-7:]))

    def test_it_reads_our_packets(self) -> None:
        data = encode_head((1 << 64) - 1, 5, Kind.RESET, Flag.MORE, 404, 5) + b"bytes"
        self.assertEqual(
            self.to_value(schema_text("packet.fbs"), "jetstream.Packet", data, "--size-prefixed"),
            {
                "header": {
                    "seq": (1 << 64) - 1,
                    "channel": 5,
                    "kind": "RESET",
                    "flags": 1,
                    "code": 404,
                },
                "payload": list(b"bytes"),
            },
        )

    def test_we_read_its_packets(self) -> None:
        header = {"seq": 1, "channel": 2, "kind": "PING", "flags": 0, "code": 3}
        value = {"header": header, "payload": [1, 2, 3]}
        data = self.to_binary(schema_text("packet.fbs"), "jetstream.Packet", value)
        # It writes no size prefixes, and alignment counts from the start of the prefix.
        data = (len(data) + 4).to_bytes(4, "little") + (data[0] + 4).to_bytes(4, "little") + data
        ((*numbers, payload),) = split_packets(data)
        self.assertEqual((numbers, bytes(payload)), ([1, 2, Kind.PING, 0, 3], b"\1\2\3"))


def schema_text(name: str) -> str:
    return (resources.files("jetstreamproto.wire") / "schema" / name).read_text("utf-8")
