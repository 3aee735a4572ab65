"""What applications do wrong and what they are told: callbacks, `Inbox`, credentials."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import (
    ChannelClosed,
    ChannelReset,
    NotLetIn,
    Refused,
    SessionCut,
    SessionError,
    WireError,
)
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.session import Session, SessionState
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.wire.session_messages import Hello
from tests.doubles import Recorder, Registry, make_pair, noise


class Failing(Recorder):
    """Raises in the callback it is told to."""

    def __init__(self, where: str, error: type[Exception] = LookupError, stay: bool = True) -> None:
        super().__init__(stay)
        self._where = where
        self._error = error

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name[0] != "_" and name == self._where:

            def failing(*args: Any) -> None:
                value(*args)
                raise self._error("the application's fault")

            return failing
        return value


class CallbackTests(SynchronousTestCase):
    callbacks = (
        "channel_opened",
        "message_received",
        "end_received",
        "session_closing",
        "channel_closed",
    )

    def provoke(self, pair: SessionPair, mine: Recorder, where: str) -> None:
        if where == "message_received":
            mine.channel.send(b"x")
        elif where == "end_received":
            mine.channel.end()
        elif where == "session_closing":
            pair.client.drain()
        elif where == "channel_closed":
            mine.channel.reset()
        pair.advance(1)

    def test_an_exception_resets_its_channel_only_and_is_logged(self) -> None:
        for where in self.callbacks:
            with self.subTest(where):
                service = Registry(lambda where=where: Failing(where))
                pair = make_pair({"failing": service, "echo": Echo})
                other = pair.run(pair.client.open("echo"))
                mine = pair.run(pair.client.open("failing", Recorder(stay=True)))
                self.provoke(pair, mine, where)
                self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
                self.assertEqual(mine.events[-1], "closed")
                if where != "channel_closed":
                    assert isinstance(mine.reason, ChannelReset)
                    self.assertEqual(mine.reason.code, ResetCode.INTERNAL_ERROR)
                    self.assertNotIn("fault", mine.reason.reason)
                self.assertEqual(service.made[0].events.count("closed"), 1)
                self.assertEqual(len(pair.server.channels), 1)
                other.channel.send(b"alive")
                self.assertEqual(pair.run(other.get()), b"alive")

    def test_exceptions_in_our_own_protocol_do_the_same(self) -> None:
        service = Registry()
        pair = make_pair({"service": service, "echo": Echo})
        mine = pair.run(pair.client.open("service", Failing("message_received")))
        service.made[0].channel.send(b"x")
        pair.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertEqual(service.made[0].reason.code, ResetCode.INTERNAL_ERROR)
        self.assertEqual(mine.events[-1], "closed")
        pair.run(pair.client.open("echo"))

    def test_a_channel_that_fails_at_its_opening_is_not_handed_out(self) -> None:
        pair = make_pair({"echo": Echo})
        opening = pair.client.open("echo", Failing("channel_opened"))
        pair.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.failureResultOf(opening, ChannelReset)

    def test_an_open_that_is_cancelled_at_its_opening(self) -> None:
        class Changeable(Recorder):
            def channel_opened(self) -> None:
                opening.cancel()

        pair = make_pair({"echo": Echo})
        opening: Deferred[Any] = pair.client.open("echo", Changeable())
        pair.advance(1)
        self.failureResultOf(opening, CancelledError, ChannelReset)
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertIs(pair.client.state, SessionState.OPEN)
        pair.run(pair.client.open("echo"))

    def test_a_wire_error_of_the_application_is_logged_as_any_other(self) -> None:
        service = Registry(lambda: Failing("message_received", WireError))
        pair = make_pair({"failing": service})
        mine = pair.run(pair.client.open("failing", Recorder()))
        mine.channel.send(b"x")
        pair.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(WireError)), 1)
        self.assertIsInstance(mine.reason, ChannelReset)

    def test_a_service_that_cannot_be_made(self) -> None:
        def broken() -> ChannelProtocol:
            raise LookupError("no disk")

        def nothing() -> Any:
            return None

        def odd_code() -> ChannelProtocol:
            raise ChannelReset(1 << 20, "a code that does not fit")

        def odd_reason() -> ChannelProtocol:
            raise ChannelReset(9, "caf\udce9")

        services = {
            "broken": broken,
            "nothing": nothing,
            "odd code": odd_code,
            "odd reason": odd_reason,
            "echo": Echo,
        }
        for name in services:
            if name == "echo":
                continue
            with self.subTest(name):
                pair = make_pair(services)
                opening = pair.client.open(name)
                pair.advance(1)
                self.flushLoggedErrors()
                self.assertNotIn("no disk", str(self.failureResultOf(opening, ChannelReset)))
                pair.run(pair.client.open("echo"))

    def test_a_refusal_with_the_applications_own_code(self) -> None:
        def busy() -> ChannelProtocol:
            raise ChannelReset(4000, "come back later")

        pair = make_pair({"busy": busy})
        error = self.assertRaises(ChannelReset, pair.run, pair.client.open("busy"))
        self.assertEqual((error.code, error.reason), (4000, "come back later"))

    def test_a_reason_of_any_text_can_be_given(self) -> None:
        for reason in ("é" * 300, "x" * 5000, "caf\udce9", "a\nb"):
            service = Registry()
            pair = make_pair({"service": service})
            mine = pair.run(pair.client.open("service", Recorder()))
            mine.channel.reset(9, reason)
            pair.advance(1)
            theirs = service.made[0]
            self.assertEqual(theirs.reason.code, 9)
            self.assertNotIn("\N{REPLACEMENT CHARACTER}", theirs.reason.reason)

    def test_echo_does_not_log_what_its_client_cannot_take_back(self) -> None:
        pair = make_pair({"echo": Echo}, client_settings=SessionSettings(max_message=1000))
        inbox = pair.run(pair.client.open("echo"))
        inbox.channel.send(bytes(2000))
        pair.advance(1)
        failure = self.failureResultOf(inbox.get(), ChannelReset)
        self.assertEqual(self.flushLoggedErrors(), [], "a client can fill the log")
        self.assertEqual(failure.value.code, ResetCode.MESSAGE_TOO_LARGE)

    def test_callbacks_may_end_reset_open_close_and_abort(self) -> None:
        for what in ("end", "reset", "open", "ping", "close", "drain", "abort"):
            for where in self.callbacks:
                with self.subTest(f"{what} in {where}"):
                    service = Registry(lambda what=what, where=where: Acting(where, what))
                    pair = make_pair({"acting": service}, client_services={"echo": Echo})
                    mine = Recorder(stay=True)
                    opening = pair.client.open("acting", mine)
                    opening.addErrback(lambda failure: failure.trap(SessionError, ChannelReset))
                    pair.advance(1)
                    if mine.events and mine.events[-1] != "closed":
                        mine.channel.send(noise(200_000))
                        pair.advance(1)
                        mine.channel.end()
                        pair.advance(1)
                    pair.client.drain()
                    pair.advance(30)
                    self.assertEqual(self.flushLoggedErrors(), [])
                    self.assertEqual(pair.client.channels + pair.server.channels, ())
                    self.assertIs(pair.client.state, SessionState.CLOSED)
                    self.assertIs(pair.server.state, SessionState.CLOSED)
                    self.assertEqual(pair.clock.getDelayedCalls(), [])
                    for side in (mine, service.made[0]):
                        self.assertEqual(side.events.count("closed"), side.events.count("opened"))


class Acting(Failing):
    """Does something to its channel or session in the callback it is told to."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__("", stay=False)
        self._act_in = where
        self._what = what

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name[0] != "_" and name == self._act_in:

            def acting(*args: Any) -> None:
                value(*args)
                self._act()

            return acting
        return value

    def _act(self) -> None:
        session = self.channel.session
        if self._what in ("end", "reset"):
            getattr(self.channel, self._what)()
        elif self._what == "abort":
            session.abort()
        else:
            result = (
                session.open("echo") if self._what == "open" else getattr(session, self._what)()
            )
            result.addErrback(lambda _: None)


class InboxTests(SynchronousTestCase):
    def join(self, inbox: Inbox | None = None, **options: Any) -> tuple[SessionPair, Inbox, Any]:
        registry = Registry(lambda: Recorder(stay=True))
        pair = make_pair({"service": registry}, **options)
        mine = pair.run(pair.client.open("service", inbox or Inbox()))
        return pair, mine, registry.made[0]

    def test_get_before_and_after_the_message(self) -> None:
        pair, inbox, theirs = self.join()
        early = [inbox.get(), inbox.get()]
        for number in range(4):
            theirs.channel.send(b"%d" % number)
        pair.advance(1)
        late = [inbox.get(), inbox.get()]
        self.assertEqual(
            [self.successResultOf(one) for one in early + late], [b"0", b"1", b"2", b"3"]
        )
        self.assertNoResult(inbox.get())

    def test_messages_before_the_end_are_still_there_after_it(self) -> None:
        pair, inbox, theirs = self.join()
        for number in range(3):
            theirs.channel.send(b"%d" % number)
        theirs.channel.end()
        pair.advance(1)
        for number in range(3):
            self.assertEqual(self.successResultOf(inbox.get()), b"%d" % number)
        for _ in range(2):
            self.failureResultOf(inbox.get(), ChannelClosed)
        inbox.channel.send(b"our side is still open")
        pair.advance(1)
        self.assertEqual(len(theirs.messages), 1)

    def test_waiting_gets_fail_at_the_end_and_after_a_reset(self) -> None:
        pair, inbox, theirs = self.join()
        waiting = [inbox.get() for _ in range(3)]
        theirs.channel.end()
        pair.advance(1)
        for one in waiting:
            self.failureResultOf(one, ChannelClosed)
        pair, inbox, theirs = self.join()
        theirs.channel.send(b"before")
        waiting = [inbox.get() for _ in range(3)]
        theirs.channel.send(b"dropped or not")
        pair.advance(1)
        theirs.channel.reset(42, "no")
        pair.advance(1)
        self.assertEqual(self.successResultOf(waiting[0]), b"before")
        self.assertEqual(self.failureResultOf(waiting[2], ChannelReset).value.code, 42)
        self.successResultOf(waiting[1])
        self.assertEqual(self.failureResultOf(inbox.get(), ChannelReset).value.code, 42)

    def test_a_cut_fails_gets(self) -> None:
        pair, inbox, theirs = self.join()
        theirs.channel.send(b"x")
        pair.advance(1)
        pair.cut()
        self.assertEqual(self.successResultOf(inbox.get()), b"x")
        self.failureResultOf(inbox.get(), SessionCut)

    def test_iteration_ends_with_the_channel_and_raises_when_it_breaks(self) -> None:
        async def collect(inbox: Inbox) -> list[bytes]:
            return [message async for message in inbox]

        pair, inbox, theirs = self.join()
        collecting = ensureDeferred(collect(inbox))
        for number in range(100):
            theirs.channel.send(b"%d" % number)
        theirs.channel.end()
        pair.advance(1)
        self.assertEqual(self.successResultOf(collecting), [b"%d" % n for n in range(100)])
        pair, inbox, theirs = self.join()
        collecting = ensureDeferred(collect(inbox))
        theirs.channel.reset(5)
        pair.advance(1)
        self.failureResultOf(collecting, ChannelReset)

    def test_a_cancelled_get_takes_no_message(self) -> None:
        pair, inbox, theirs = self.join()
        first, second, third = inbox.get(), inbox.get(), inbox.get()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        theirs.channel.send(b"1")
        theirs.channel.send(b"2")
        pair.advance(1)
        self.assertEqual(self.successResultOf(first), b"1")
        self.assertEqual(self.successResultOf(third), b"2")
        timed = inbox.get().addTimeout(1, pair.clock)
        pair.advance(2)
        self.failureResultOf(timed)
        theirs.channel.send(b"3")
        pair.advance(1)
        self.assertEqual(self.successResultOf(inbox.get()), b"3")

    def test_every_high_water_mark_works(self) -> None:
        for high_water in (1, 2, 3, 100, 1000):
            with self.subTest(high_water=high_water):
                pair, inbox, theirs = self.join(Inbox(high_water=high_water))
                for number in range(50):
                    theirs.channel.send(noise(number, number))
                theirs.channel.end()
                for number in range(50):
                    self.assertEqual(pair.run(inbox.get()), noise(number, number))

    def test_two_inboxes_that_talk_to_each_other(self) -> None:
        boxes = Registry(Inbox)
        pair = make_pair({"box": boxes})
        inbox = pair.run(pair.client.open("box"))

        async def ask() -> int:
            for number in range(100):
                inbox.channel.send(b"%d" % number)
                assert await inbox.get() == b"%d!" % number
            inbox.channel.end()
            return number

        async def answer(box: Inbox) -> None:
            async for message in box:
                box.channel.send(message + b"!")

        asking = ensureDeferred(ask())
        answering = ensureDeferred(answer(boxes.made[0]))
        self.assertEqual(pair.run(asking), 99)
        pair.advance(1)
        self.successResultOf(answering)


class CredentialTests(SynchronousTestCase):
    def connect(self, judge: Any, credentials: Any = ("ann", "secret")) -> SessionPair:
        return make_pair(
            {"echo": Echo},
            connect=False,
            latency=0.01,
            server_options={"authenticate": judge},
            client_options={"credentials": credentials},
        )

    def test_the_judge_sees_name_and_password_and_may_take_its_time(self) -> None:
        verdict: Deferred[object] = Deferred()
        seen: list[tuple[str | None, str | None]] = []

        def judge(session: Session, hello: Hello) -> Deferred[object]:
            seen.append((hello.username, hello.password))
            return verdict

        pair = self.connect(judge)
        connecting = [pair.client.when_connected(), pair.server.when_connected()]
        pair.advance(5)
        self.assertEqual(seen, [("ann", "secret")])
        for one in connecting:
            self.assertNoResult(one)
        self.assertEqual(pair.server_factory.sessions, set())
        verdict.callback("the avatar")
        for one in connecting:
            pair.run(one)
        self.assertEqual(pair.server.avatar, "the avatar")
        inbox = pair.run(pair.client.open("echo"))
        inbox.channel.send(b"in")
        self.assertEqual(pair.run(inbox.get()), b"in")
        pair.advance(100)
        self.assertIs(pair.client.state, SessionState.OPEN)

    def test_a_refusal_now_or_later_reaches_the_client(self) -> None:
        for later in (False, True):
            with self.subTest(later=later):
                verdict: Deferred[object] = Deferred()
                if not later:
                    verdict.errback(ValueError("ann's password is not secret"))
                pair = self.connect(lambda *_, verdict=verdict: verdict)
                client, server = pair.client.when_connected(), pair.server.when_connected()
                pair.advance(1)
                if later:
                    verdict.errback(ValueError("ann's password is not secret"))
                    pair.advance(1)
                refusal = self.failureResultOf(client, Refused).value
                self.assertNotIn("not secret", str(refusal))
                self.failureResultOf(server, NotLetIn)
                self.assertIsInstance(pair.client.close_reason, Refused)
                self.assertEqual(pair.clock.getDelayedCalls(), [])
                self.assertEqual(pair.server_factory.sessions, set())

    def test_a_verdict_after_the_client_has_gone(self) -> None:
        for good in (True, False):
            verdict: Deferred[object] = Deferred()
            pair = self.connect(lambda *_, verdict=verdict: verdict)
            pair.client.when_connected().addErrback(lambda _: None)
            pair.advance(1)
            pair.cut()
            if good:
                verdict.callback("ann")
            else:
                verdict.errback(ValueError("wrong"))
            pair.advance(1)
            self.assertIs(pair.server.state, SessionState.CLOSED)
            self.assertEqual(pair.server_factory.sessions, set())

    def test_the_password_does_not_stay_in_memory(self) -> None:
        def judge(session: Session, hello: Hello) -> Deferred[object]:
            verdict: Deferred[object] = Deferred()
            verdict.callback(hello.username)
            return verdict

        pair = self.connect(judge)
        pair.run(pair.server.when_connected())
        self.assertNotEqual(pair.server.peer_hello.password, "secret")

    def test_a_client_without_credentials_shows_none(self) -> None:
        seen: list[Hello] = []

        def judge(session: Session, hello: Hello) -> Deferred[object]:
            seen.append(hello)
            return Deferred()

        pair = self.connect(judge, None)
        pair.client.when_connected().addErrback(lambda _: None)
        pair.advance(1)
        self.assertEqual((seen[0].username, seen[0].password), (None, None))
        pair.cut()
