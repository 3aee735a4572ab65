"""The lines of standard input as events."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jetstreamproto.cli.failure import StreamFailed
from jetstreamproto.cli.pipe import STDIN, InputReader, check_standard_streams
from jetstreamproto.errors import JetStreamError
from jetstreamproto.services.events.client import EventClient
from jetstreamproto.services.events.model.event import Receipt
from jetstreamproto.services.events.model.limits import MAX_PAYLOAD


class LinePublisher:
    """Publishes each line on one topic, no faster than they are taken."""

    def __init__(self, reactor: ReactorBase, client: EventClient, topic: str) -> None:
        self._client = client
        self._topic = topic
        self._line = b""  # what has come of a line that is not complete
        self._counts = self.count([])
        self._under_way = 0
        self._ended = False
        self._finished: Deferred[dict[str, int]] = Deferred()
        self._input = InputReader(reactor, STDIN, self._received, self._input_ended, self._failed)

    @staticmethod
    def count(receipts: Sequence[Receipt]) -> dict[str, int]:
        """What these receipts come to."""
        sequences = [receipt.sequence for receipt in receipts if receipt.sequence]
        return {
            "published": len(receipts),
            "stored": len(sequences),
            "sequence": max(sequences, default=0),
        }

    def run(self) -> Deferred[dict[str, int]]:
        """Publish until the input ends; fires with the counts when all are taken."""
        check_standard_streams()
        self._input.start()
        return self._finished

    def _received(self, chunk: bytes) -> None:
        if self._finished.called:
            return
        *lines, self._line = (self._line + chunk).split(b"\n")
        if len(self._line) > MAX_PAYLOAD:
            self._stop(StreamFailed(f"standard input: a line of more than {MAX_PAYLOAD} bytes"))
            return
        if lines:
            self._publish(lines)
            room = self._client.drained()
            if not room.called:
                self._input.pause()
                room.addCallback(lambda _: self._input.resume())

    def _publish(self, lines: Sequence[bytes]) -> None:
        self._under_way += 1
        try:
            publishing = self._client.publish_many([(self._topic, line) for line in lines])
        except JetStreamError as error:
            self._stop(error)
            return
        publishing.addCallbacks(self._taken, self._refused)

    def _taken(self, receipts: Sequence[Receipt]) -> None:
        self._under_way -= 1
        more, counts = self.count(receipts), self._counts
        for name in ("published", "stored"):
            counts[name] += more[name]
        counts["sequence"] = max(counts["sequence"], more["sequence"])
        self._check_finished()

    def _refused(self, failure: Failure) -> None:
        self._stop(failure.value)

    def _input_ended(self) -> None:
        self._ended = True
        if self._line and not self._finished.called:
            self._publish([self._line])
        self._check_finished()

    def _failed(self, error: OSError) -> None:
        self._stop(StreamFailed(f"standard input: {error.strerror}"))

    def _check_finished(self) -> None:
        if self._ended and not self._under_way and not self._finished.called:
            self._finished.callback(self._counts)

    def _stop(self, error: BaseException | None) -> None:
        self._input.pause()
        if not self._finished.called:
            assert error is not None
            self._finished.errback(error)
