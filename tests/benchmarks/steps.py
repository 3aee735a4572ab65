"""The steps that a message takes, each timed by itself in one warm process."""

from __future__ import annotations

import os
from collections.abc import Callable
from timeit import Timer

from jetstreamproto.security.keys import SECRET_SIZE, Cipher, TrafficKeys
from jetstreamproto.security.records import (
    HEADER_SIZE,
    OVERHEAD,
    RecordOpener,
    RecordSealer,
    RecordType,
)
from jetstreamproto.services.echo import DISCARD, Discard
from jetstreamproto.session.credit import SendCredit
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.wire.packet import HEAD_SIZE, Kind, encode_head, split_packets
from tests.benchmarks.round_trips import PAYLOAD

_BIG, _SHORT = 1 << 16, 1 << 12
_REPEATS = 7
_SECONDS = 0.05  # of each repeat
_DATA = int(Kind.DATA)


class _Nowhere:
    """A link that is always writable and sends nothing."""

    writable = True

    def send_packet(self, head: bytes, payload: bytes | memoryview, channel: int) -> None:
        pass

    def flush(self) -> None:
        pass


def timings() -> dict[str, float]:
    """Microseconds of each step: the best of several repeats, which others disturb least."""
    steps: dict[str, Callable[[], object]] = {}
    small, big = _packet(PAYLOAD), _packet(os.urandom(_BIG))
    for name, plaintext in (("64 B", small), ("100 x 64 B", small * 100), ("64 KiB", big)):
        steps |= _record_steps(name, plaintext)
    steps["encode_head"] = lambda: encode_head(12345, 7, _DATA, 0, 0, len(PAYLOAD))
    for name, plaintext in (("1 packet", small), ("100 packets", small * 100)):
        steps[f"split_packets, {name}"] = lambda plaintext=plaintext: split_packets(plaintext)
    heads_and_payloads = [big[:HEAD_SIZE], big[HEAD_SIZE:]]
    steps["join a head and 64 KiB"] = lambda: b"".join(heads_and_payloads)
    for name, message in (("64 B", PAYLOAD), ("64 KiB", bytes(_BIG))):
        steps[f"Channel.send + emit, {name}"] = _send_step(message)
    found = {name: _time(step) for name, step in steps.items()}
    for name, message in (("64 B", PAYLOAD), ("64 KiB", bytes(_BIG))):
        found[f"a message from send to message_received, {name}"] = _time(_whole_way(message)) / 16
    return found


def _record_steps(name: str, plaintext: bytes) -> dict[str, Callable[[], object]]:
    keys = TrafficKeys(bytes(SECRET_SIZE), Cipher.AES_256_GCM)
    out = memoryview(bytearray(len(plaintext) + OVERHEAD))
    sealer = RecordSealer(keys)
    size = RecordSealer(keys).seal(RecordType.PACKETS, plaintext, out)
    record = bytes(out[:size])
    header, body = record[:HEADER_SIZE], memoryview(record)[HEADER_SIZE:]
    opened = memoryview(bytearray(len(plaintext)))

    def seal() -> object:
        """As links do it."""
        if len(plaintext) <= _SHORT:
            return sealer.sealed(RecordType.PACKETS, plaintext)
        return sealer.seal(RecordType.PACKETS, plaintext, out)

    return {
        f"seal {name}": seal,
        # a fresh opener each time: a record opens only in its place
        f"open {name}": lambda: RecordOpener(keys).open(header, body, opened),
    }


def _send_step(message: bytes) -> Callable[[], object]:
    channel = _pair_and_inbox()[1].channel
    link, credit = _Nowhere(), SendCredit(0)

    def step() -> None:
        credit.grant(credit.limit + 2 * _BIG)
        channel.credit_received(credit.limit + 2 * _BIG)
        channel.send(message)
        channel.emit(link, credit, _BIG)

    return step


def _whole_way(message: bytes) -> Callable[[], object]:
    pair, inbox = _pair_and_inbox()
    channel = inbox.channel

    def step() -> None:
        for _ in range(16):
            channel.send(message)
        pair.advance(0.0)

    return step


def _pair_and_inbox() -> tuple[SessionPair, Inbox]:
    pair = SessionPair({DISCARD: Discard}, settings=SessionSettings(compression=None))
    return pair, pair.run(pair.client.open(DISCARD, Inbox()))


def _packet(payload: bytes) -> bytes:
    return encode_head(1, 1, _DATA, 0, 0, len(payload)) + payload


def _time(step: Callable[[], object]) -> float:
    timer = Timer(step)
    number, taken = timer.autorange()
    number = max(1, round(number * _SECONDS / taken))
    return 1e6 * min(timer.repeat(_REPEATS, number)) / number
