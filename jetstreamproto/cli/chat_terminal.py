"""A chat on a terminal: a prompt at the bottom, and what happens above it.

The prompt has a thread with an event loop of its own, so that neither it nor the reactor waits for
the other; lines are handed over between them. Everything printed meanwhile goes above the prompt.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.patch_stdout import patch_stdout
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jetstreamproto.cli.chat_commands import Typist, entered
from jetstreamproto.cli.chat_view import TerminalView
from jetstreamproto.cli.failure import Interrupted, StreamFailed
from jetstreamproto.cli.output import show
from jetstreamproto.services.chat.client import ChatClient
from jetstreamproto.services.chat.model.notice import Notice
from jetstreamproto.services.chat.room import ChatRoom

_PATIENCE = 2.0  # seconds for the terminal to be as it was


class Prompt:
    """Asks for lines, and hands them to `typed` in the reactor's thread.

    `ended` is called once, with an exception unless the person wants to leave.
    """

    def __init__(
        self,
        reactor: ReactorBase,
        question: Callable[[], str],
        typed: Callable[[str], None],
        ended: Callable[[Exception | None], None],
    ) -> None:
        self._reactor = reactor
        self._question = question
        self._typed = typed
        self._ended = ended
        self._stopping = False
        self._session: PromptSession[str | None] = PromptSession(erase_when_done=True)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; the terminal is as it was when this returns."""
        self._stopping = True
        loop = self._session.app.loop
        if loop is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(self._leave_application)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        call = self._reactor.callFromThread
        try:
            while not self._stopping:
                line = self._session.prompt(
                    self._question, handle_sigint=False, pre_run=self._leave_if_stopping
                )
                if line is not None:
                    call(self._typed, line)
        except EOFError:
            call(self._ended, None)
        except KeyboardInterrupt:
            call(self._ended, Interrupted(signal.SIGINT))
        except Exception as error:
            call(self._ended, StreamFailed(f"the terminal: {error}"))

    def _leave_if_stopping(self) -> None:
        if self._stopping:
            get_app().exit()

    def _leave_application(self) -> None:
        if self._session.app.is_running:
            self._session.app.exit()


class TerminalChat:
    """Somebody at a terminal, in `room` first."""

    def __init__(self, reactor: ReactorBase, client: ChatClient, room: ChatRoom) -> None:
        self._client = client
        self._view = TerminalView()
        self._finished: Deferred[None] = Deferred()
        self._lines: list[str] = []
        self._is_busy = False
        self._typist = Typist(client, room, self._remark, self._show, self._leave)
        self._prompt = Prompt(reactor, self._question, self._typed, self._end)
        for notice in room.history:
            self._show(notice)
        self._remark(f"you are {client.name}, {entered(room)}; /help lists the commands")

    async def run(self) -> None:
        """Until the person leaves, or the chat ends, which raises."""
        with patch_stdout(raw=True):
            self._prompt.start()
            receiving = self._start(self._receive())
            try:
                await self._finished
            finally:
                receiving.cancel()
                self._prompt.stop()

    def _start(self, work: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        return Deferred.fromCoroutine(work).addErrback(self._failed)

    async def _receive(self) -> None:
        while True:
            self._show(await self._client.get())

    def _typed(self, text: str) -> None:
        self._lines += text.splitlines()
        if not self._is_busy:
            self._is_busy = True
            self._start(self._do_lines())

    async def _do_lines(self) -> None:
        while self._lines:
            await self._typist.typed(self._lines.pop(0))
        self._is_busy = False

    def _question(self) -> str:
        return f"{self._typist.room or '(no room)'}> "

    def _show(self, notice: Notice) -> None:
        show(self._view.line(notice, self._typist.room))

    def _remark(self, text: str) -> None:
        show(self._view.remark(text))

    def _leave(self) -> None:
        self._end(None)

    def _failed(self, failure: Failure) -> None:
        if not self._finished.called:
            self._finished.errback(failure)

    def _end(self, error: Exception | None) -> None:
        if not self._finished.called:
            if error is None:
                self._finished.callback(None)
            else:
                self._finished.errback(error)
