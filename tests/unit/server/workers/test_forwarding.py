from __future__ import annotations

import unittest
from typing import Any

from jetstreamproto.server.workers.forwarding import Mailbox, mailboxes


class Readers:
    """Stands for a reactor that reads."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)


class MailboxTests(unittest.TestCase):
    def setUp(self) -> None:
        ends = mailboxes(3)
        self.boxes = [
            Mailbox(number, inbox, [written.dup() for _, written in ends])
            for number, (inbox, _) in enumerate(ends)
        ]
        for _, written in ends:
            written.close()
        self.received: list[list[tuple[bytes, int, Any]]] = [[], [], []]
        self.reactor = Readers()
        for box, received in zip(self.boxes, self.received, strict=True):
            self.addCleanup(box.stop)
            box.start(
                self.reactor,  # type: ignore[arg-type]
                lambda data, segment, address, received=received: received.append(  # type: ignore[misc]
                    (bytes(data), segment, address)
                ),
            )

    def test_the_owner_gets_datagrams_as_they_came(self) -> None:
        batch = bytes(range(256)) * 100
        self.assertTrue(self.boxes[0].forward(2, memoryview(batch), 1000, ("10.0.0.1", 9)))
        self.assertTrue(self.boxes[1].forward(2, memoryview(b"x"), 1400, ("fe80::1%eth0", 65535)))
        for box in self.boxes:
            box.doRead()
        expected = [(batch, 1000, ("10.0.0.1", 9)), (b"x", 1, ("fe80::1%eth0", 65535))]
        self.assertEqual(self.received, [[], [], expected])

    def test_the_largest_batch_fits(self) -> None:
        batch = bytes(65507)
        self.boxes[0].forward(1, memoryview(batch), 1472, ("127.0.0.1", 1))
        self.boxes[1].doRead()
        self.assertEqual(self.received[1], [(batch, 1472, ("127.0.0.1", 1))])

    def test_there_is_nobody_else_of_that_number(self) -> None:
        for owner in (0, 3, 255):
            self.assertFalse(self.boxes[0].forward(owner, memoryview(b"x"), 1, ("::1", 1)))
        self.assertEqual(self.boxes[0].forwarded, 0)

    def test_one_that_does_not_read_costs_datagrams_and_no_memory(self) -> None:
        box = self.boxes[0]
        for _ in range(5000):
            self.assertTrue(box.forward(1, memoryview(bytes(1000)), 1000, ("::1", 1)))
        self.assertGreater(box.lost, 1000)
        self.assertEqual(box.forwarded + box.lost, 5000)
        while len(self.received[1]) < box.forwarded:
            self.boxes[1].doRead()

    def test_stopped_means_not_read(self) -> None:
        self.boxes[1].stop()
        self.assertNotIn(self.boxes[1], self.reactor.readers)
        self.assertTrue(self.boxes[0].forward(1, memoryview(b"x"), 1, ("::1", 1)))
        self.assertEqual(self.boxes[0].lost, 1)
