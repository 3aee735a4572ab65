"""A chat without a terminal: lines of standard input are said, what others say is printed."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Coroutine
from typing import Any

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from jetstreamproto.cli.chat_view import notice_object, plain_line
from jetstreamproto.cli.failure import StreamFailed, clean
from jetstreamproto.cli.output import stdout_failure, with_route
from jetstreamproto.cli.pipe import STDIN, STDOUT, InputReader, OutputWriter
from jetstreamproto.errors import ChatError
from jetstreamproto.services.chat.client import ChatClient
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.limits import MAX_TEXT
from jetstreamproto.services.chat.model.notice import Notice
from jetstreamproto.services.chat.room import ChatRoom, is_same

_AHEAD = 100
"""Lines that may be read before the first of them is said."""


class LineChat:
    """Says lines in `room`, as fast as the server takes them, until there are no more."""

    def __init__(
        self, reactor: ReactorBase, client: ChatClient, room: ChatRoom, as_json: bool
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._room = room
        self._as_json = as_json
        self._finished: Deferred[None] = Deferred()
        self._part = b""  # what has come of a line that is not complete
        self._lines: deque[bytes] = deque()
        self._is_saying = False
        self._ended = False
        self._room_to_write: Deferred[None] | None = None
        self._input = InputReader(reactor, STDIN, self._received, self._input_ended, self._failed)
        self._output = OutputWriter(reactor, STDOUT, self._drained, self._not_written)

    async def run(self) -> None:
        """Raises what ends the chat before the input does."""
        for notice in self._room.history:
            self._write(notice, also_own=True)
        receiving = self._start(self._receive())
        self._input.start()
        try:
            await self._finished
        finally:
            self._input.pause()
            receiving.cancel()
        await self._output.finish()

    def _start(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        return Deferred.fromCoroutine(work).addErrback(self._stop)

    # --- output -----------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            self._write(await self._client.get())
            if self._output.full:
                self._room_to_write = Deferred()
                await self._room_to_write

    def _write(self, notice: Notice, also_own: bool = False) -> None:
        own = is_same(notice.name, self._client.name)
        if self._as_json:
            shown = with_route(notice_object(notice, own))
            self._output.write(json.dumps(shown).encode() + b"\n")
        elif also_own or not own:
            self._output.write(plain_line(notice).encode() + b"\n")

    def _drained(self) -> None:
        waiting, self._room_to_write = self._room_to_write, None
        if waiting is not None:
            waiting.callback(None)

    def _not_written(self, error: OSError) -> None:
        self._stop(Failure(stdout_failure(error)))

    # --- input ------------------------------------------------------------------------------------

    def _received(self, chunk: bytes) -> None:
        *lines, self._part = (self._part + chunk).split(b"\n")
        if len(self._part) > MAX_TEXT:
            limit = f"standard input: a message has at most {MAX_TEXT} bytes"
            self._stop(Failure(ChatError(ChatCode.INVALID, limit)))
            return
        self._lines.extend(lines)
        if len(self._lines) >= _AHEAD:
            self._input.pause()
        self._go_on()

    def _input_ended(self) -> None:
        self._ended = True
        if self._part:
            self._lines.append(self._part)
        self._go_on()

    def _failed(self, error: OSError) -> None:
        self._stop(Failure(StreamFailed(f"standard input: {error.strerror}")))

    def _go_on(self) -> None:
        if not self._is_saying and not self._finished.called:
            self._is_saying = True
            self._start(self._say_lines())

    async def _say_lines(self) -> None:
        while self._lines:
            line = clean(self._lines.popleft().decode("utf-8", "replace"))
            if line:
                await self._say(line)
            if len(self._lines) == _AHEAD >> 1:
                self._input.resume()
        self._is_saying = False
        if self._ended and not self._finished.called:
            self._finished.callback(None)

    async def _say(self, line: str) -> None:
        while True:
            try:
                await self._room.say(line)
                return
            except ChatError as refusal:
                if refusal.code != ChatCode.TOO_FAST:
                    raise
                await deferLater(self._reactor, refusal.retry_after)

    def _stop(self, failure: Failure) -> None:
        if not self._finished.called:
            self._finished.errback(failure)
