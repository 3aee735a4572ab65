"""A channel of key-value: requests and answers, or a watch.

A channel carries any number of requests at a time, and answers each as soon as it can: reads at
once, writes when they are on disk. A read does wait for the writes to the same key that came
before it on its channel. A channel that begins with a watch is for that alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.errors import (
    ChannelClosed,
    ConfigurationError,
    JetStreamError,
    MessageTooLarge,
    QueueFull,
    WireError,
)
from jetstreamproto.services.kv.messages import (
    VERSION,
    Request,
    encode_reply,
    pack_replies,
    packed_requests,
    read_request,
    read_step,
)
from jetstreamproto.services.kv.model import (
    KV,
    MAX_BATCH,
    MAX_STEPS,
    READ,
    WRITE,
    WRITES,
    Action,
    Refusal,
    Status,
    Step,
    check_bucket,
    check_step,
)
from jetstreamproto.services.kv.packing import Packing
from jetstreamproto.services.kv.patterns import KeyPatterns
from jetstreamproto.services.kv.reading import KEY_READS, READS, Reading
from jetstreamproto.services.kv.store import Outcome, Position, Store
from jetstreamproto.services.kv.watching import RESTARTED, Watch, Watches
from jetstreamproto.services.offer import Permissions
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

_log = Logger(namespace="jetstream.kv")

_EVERYTHING = ("*",)
_MOST_PENDING = 1024  # requests of a channel that are not answered yet
_READS_A_TURN = 32

_Key = tuple[str, str]  # bucket, key


@implementer(IPushProducer)
class KeyValueChannel(ChannelProtocol):
    """One channel of a client. `open_store` gives the store and its watches."""

    def __init__(
        self, open_store: Callable[[], tuple[Store, Watches]], permissions: Permissions
    ) -> None:
        self._open_store = open_store
        self._permissions = permissions
        self._writing: dict[_Key, int] = {}  # how many writes are under way to a key
        self._pending = 0  # writes that are under way
        self._waiting: deque[Request] = deque()  # to be done
        self._full = False  # the client reads its answers too slowly
        self._holding = False  # no requests are taken
        self._packing: Packing | None = None  # for a client that packs too
        self._fresh = True
        self._ended = False
        self._going = False
        self._turn: IDelayedCall | None = None  # the next in which requests are done
        self._watch: Watch | None = None

    # --- ChannelProtocol ---------------------------------------------------------------

    def channel_opened(self) -> None:
        try:
            self._store, self._watches = self._open_store()
        except ConfigurationError as error:
            _log.error("{error}", error=str(error))
            self.channel.reset(ResetCode.INTERNAL_ERROR, "the store cannot be opened")
            return
        ask = partial(self._permissions, self.channel.session, KV)
        self._readable = KeyPatterns(ask(READ, _EVERYTHING))
        self._writable = KeyPatterns(ask(WRITE, _EVERYTHING))
        self._reading = Reading(self._store, self._readable)
        self.channel.registerProducer(self, True)

    def message_received(self, message: bytes) -> None:
        try:
            request = read_request(message)
            if self._watch is not None:
                raise WireError("a request on the channel of a watch")
            packed = request.action == Action.PACK and request.version == VERSION
            requests = packed_requests(request) if packed else (request,)
        except WireError as error:
            self._bad(error)
            return
        if packed:
            self._fresh = False
            if self._packing is None:
                self._packing = Packing(self.channel, pack_replies)
        self._waiting.extend(requests)
        self._go_on()

    def end_received(self) -> None:
        self._ended = True
        self._end_if_done()

    def session_closing(self) -> None:
        if self._watch is not None:
            self.channel.end()

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._waiting.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._watch is not None:
            self._watches.remove(self._watch)

    # --- IPushProducer: of answers -------------------------------------------------------

    def pauseProducing(self) -> None:
        self._full = True
        if self._watch is not None:
            self._watch.held = True
        self._regulate()

    def resumeProducing(self) -> None:
        self._full = False
        if self._watch is not None:
            self._watch.held = False
            self._watches.wake(self._watch)
        self._go_on()

    def stopProducing(self) -> None:
        """The channel is gone; `channel_closed` is told."""

    # --- requests ------------------------------------------------------------------------

    def _must_wait(self, request: Request) -> bool:
        """Whether there is too much under way, or writes that have to be seen by `request`."""
        if not self._pending or self._full:
            return self._full
        if request.action not in READS:
            return self._pending >= _MOST_PENDING
        one = request.action in KEY_READS
        return not one or (request.bucket, request.key) in self._writing

    def _do(self, request: Request) -> None:
        fresh, self._fresh = self._fresh, False
        try:
            if request.version != VERSION:
                reason = f"version {request.version} is asked for; this is version {VERSION}"
                raise Refusal(Status.UNSUPPORTED, reason)
            action = request.action
            if action in READS:
                self._send(request.id, READS[action](self._reading, request))
            elif action in WRITES or action == Action.BATCH:
                self._write(request)
            elif action == Action.WATCH:
                self._begin_watch(request, fresh)
            else:
                raise Refusal(Status.UNSUPPORTED, f"there is no action {action}")
        except Refusal as refusal:
            self._refuse(request.id, refusal)
        except WireError as error:
            self._bad(error)

    def _bad(self, error: WireError) -> None:
        self.channel.reset(ResetCode.BAD_MESSAGE, str(error))

    def _refuse(self, id: int, refusal: Refusal) -> None:
        why = [refusal.reason.encode("utf-8", "replace")]
        if refusal.position is not None:
            why.append(b"%d" % refusal.position)
        self._send(id, encode_reply(id, why, status=refusal.status, revision=refusal.revision))

    def _send(self, id: int, message: bytes) -> None:
        send = self.channel.send if self._packing is None else self._packing.put
        try:
            send(message)
        except MessageTooLarge:
            self._refuse(id, Refusal(Status.LIMIT, "the answer is larger than you accept"))
        except QueueFull as error:
            self.channel.reset(ResetCode.LIMIT_EXCEEDED, str(error))
        except ChannelClosed:
            pass  # nobody waits for it any more

    def _regulate(self) -> None:
        """Take no more requests while there are too many, or too many answers."""
        hold = self._full or self._pending + len(self._waiting) >= _MOST_PENDING
        if hold != self._holding:
            self._holding = hold
            if hold:
                self.channel.pauseProducing()
            else:
                self.channel.resumeProducing()

    def _go_on(self) -> None:
        """Do what waits, as far as it need not any more."""
        if self._going:  # a write was refused at once
            return
        self._going = True
        try:
            if self._turn is not None:
                pass
            elif len(self._waiting) > 1:
                with self._store.snapshot():
                    self._do_waiting()
            else:
                self._do_waiting()
        finally:
            self._going = False
        self._regulate()
        self._end_if_done()

    def _do_waiting(self) -> None:
        """Answers to some reads leave before others are done: for other clients, and for this one.

        It works on them meanwhile. Writes are all for the same commit.
        """
        waiting, reads = self._waiting, 0
        while waiting and not self._must_wait(waiting[0]):
            if reads == _READS_A_TURN:
                self._turn = self.channel.session.clock.callLater(0, self._next_turn)
                return
            request = waiting.popleft()
            reads += request.action in READS
            self._do(request)

    def _next_turn(self) -> None:
        self._turn = None
        self._go_on()

    def _end_if_done(self) -> None:
        if self._ended and not self._pending and not self._waiting:
            if self._packing is not None:
                self._packing.flush()
            self.channel.end()

    # --- writing -------------------------------------------------------------------------

    def _write(self, request: Request) -> None:
        bucket = check_bucket(request.bucket)
        steps = _read_batch(request) if request.action == Action.BATCH else (read_step(request),)
        self._check_steps(bucket, steps)
        writing, keys = self._writing, [(bucket, step.key) for step in steps]
        for key in keys:
            writing[key] = writing.get(key, 0) + 1
        self._pending += 1
        done = self._store.submit(bucket, steps)
        asked = (request.id, keys)
        done.addCallbacks(self._written, self._not_written, asked, errbackArgs=asked)

    def _check_steps(self, bucket: str, steps: Sequence[Step]) -> None:
        at = 0
        try:
            for position, step in enumerate(steps):
                at = position
                check_step(step)
                if not self._writable.allow_key(bucket, step.key):
                    raise Refusal(Status.NOT_ALLOWED, f"you may not write to {step.key!r}")
        except Refusal as refusal:
            refusal.position = at
            raise

    def _written(self, outcome: Outcome, id: int, keys: Sequence[_Key]) -> None:
        results = [b"%d" % result for result in outcome.results]
        self._send(id, encode_reply(id, results, revision=outcome.revision))
        self._write_done(keys)

    def _not_written(self, failure: Failure, id: int, keys: Sequence[_Key]) -> None:
        failure.trap(Refusal)
        assert isinstance(failure.value, Refusal)
        self._refuse(id, failure.value)
        self._write_done(keys)

    def _write_done(self, keys: Sequence[_Key]) -> None:
        self._pending -= 1
        writing = self._writing
        for key in keys:
            count = writing.pop(key)
            if count > 1:
                writing[key] = count - 1
        self._go_on()
        if not self._pending:  # nothing else is about to be answered
            self.channel.session.outbox.pump()

    # --- watching ------------------------------------------------------------------------

    def _begin_watch(self, request: Request, fresh: bool) -> None:
        bucket, prefix = check_bucket(request.bucket), request.key
        if not fresh:
            raise Refusal(Status.INVALID, "a watch has a channel of its own")
        if not self._readable.allow_prefix(bucket, prefix):
            raise Refusal(Status.NOT_ALLOWED, f"you may not watch {bucket}/{prefix}*")
        known = None
        if request.revision >= 0:
            known = Position(request.revision, request.names[0] if request.names else "")
        session = self.channel.session
        watch = Watch(session, bucket, prefix, known, partial(self._send, 0))
        revision = self._watches.add(watch)
        self._watch = watch
        self._send(request.id, encode_reply(request.id, revision=revision))
        if watch.restarted:
            watch.send(RESTARTED)


def _read_batch(request: Request) -> Sequence[Step]:
    """The writes of a BATCH. Raises `Refusal` and `WireError`."""
    if len(request.values) > MAX_STEPS or sum(map(len, request.values)) > MAX_BATCH:
        raise Refusal(Status.LIMIT, f"a batch has at most {MAX_STEPS} writes, {MAX_BATCH} bytes")
    return tuple(read_step(read_request(value)) for value in request.values)
