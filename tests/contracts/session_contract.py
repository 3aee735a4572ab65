"""What two connected sessions owe their applications, whatever carries them.

Mix `SessionContract` into a trial `SynchronousTestCase` and say in `connect` how the sessions
come together; every test of it then runs over that transport.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import (
    ChannelClosed,
    ChannelReset,
    MessageTooLarge,
    NotAllowed,
    QueueFull,
    ServiceNotFound,
    SessionClosed,
    SessionCut,
)
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.wire.session_messages import Mode
from tests.doubles import KIB, MIB, Recorder, Registry, noise, windows

_Case = SynchronousTestCase if TYPE_CHECKING else object


class SessionContract(_Case):
    """The tests. `large` is the size of what they call a large message."""

    large = 5 * MIB

    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        """Two connected sessions, with what moves them. Takes what `SessionPair` does."""
        raise NotImplementedError

    def join(
        self, service: Any = Recorder, urgency: int = 3, **options: Any
    ) -> tuple[SessionPair, Recorder, Any]:
        """Connected sessions, and the two protocols of a channel that the client opened."""
        registry = Registry(service)
        pair = self.connect({"service": registry}, **options)
        mine = pair.run(pair.client.open("service", Recorder(stay=True), urgency=urgency))
        return pair, mine, registry.made[0]

    # --- opening -----------------------------------------------------------------------

    def test_services_are_found_by_name(self) -> None:
        first, second = Registry(), Registry()
        pair = self.connect({"first": first, "second": second})
        mine = pair.run(pair.client.open("second", Recorder()))
        self.assertEqual((len(first.made), len(second.made)), (0, 1))
        theirs = second.made[0]
        self.assertEqual((mine.events, theirs.events), (["opened"], ["opened"]))
        self.assertEqual((mine.channel.service, theirs.channel.service), ("second", "second"))
        self.assertIs(mine.channel.session, pair.client)
        self.assertIs(theirs.channel.session, pair.server)

    def test_the_server_opens_channels_too(self) -> None:
        pair = self.connect({}, client_services={"echo": Echo})
        inbox = pair.run(pair.server.open("echo"))
        inbox.channel.send(b"from the server")
        self.assertEqual(pair.run(inbox.get()), b"from the server")

    def test_both_sides_open_at_the_same_moment(self) -> None:
        pair = self.connect({"echo": Echo}, client_services={"echo": Echo})
        opened = [side.open("echo") for side in (pair.client, pair.server) for _ in range(20)]
        inboxes = [pair.run(one) for one in opened]
        for number, inbox in enumerate(inboxes):
            inbox.channel.send(b"%d" % number)
        for number, inbox in enumerate(inboxes):
            self.assertEqual(pair.run(inbox.get()), b"%d" % number)

    def test_an_unknown_service_is_not_found(self) -> None:
        pair = self.connect({"echo": Echo})
        error = self.assertRaises(ServiceNotFound, pair.run, pair.client.open("ecco"))
        self.assertEqual(error.code, ResetCode.SERVICE_NOT_FOUND)
        self.assertIn("ecco", error.reason)
        self.check_alive(pair)

    def test_access_denied_is_said_with_its_reason(self) -> None:
        def deny(session: Session, service: str) -> None:
            if service == "vault":
                raise NotAllowed(ResetCode.NOT_ALLOWED, "not for you")

        vault = Registry()
        pair = self.connect({"vault": vault, "echo": Echo}, server_options={"access": deny})
        error = self.assertRaises(NotAllowed, pair.run, pair.client.open("vault"))
        self.assertEqual((error.code, error.reason), (ResetCode.NOT_ALLOWED, "not for you"))
        self.assertEqual(vault.made, [])
        self.check_alive(pair)

    def test_a_cancelled_open_gives_the_channel_up_at_both_ends(self) -> None:
        registry = Registry()
        pair = self.connect({"service": registry, "echo": Echo})
        opening = pair.client.open("service")
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        self.assertEqual(pair.client.channels, ())
        self.check_alive(pair)
        pair.run_until(lambda: not pair.server.channels)
        self.assertTrue(all(made.events[-1] == "closed" for made in registry.made))

    def test_service_names_and_urgencies_out_of_range_are_refused_locally(self) -> None:
        pair = self.connect({"echo": Echo})
        for name in ("", "x" * 256, "é" * 128):
            self.assertRaises(ValueError, pair.client.open, name)
        for urgency in (-1, 8):
            self.assertRaises(ValueError, pair.client.open, "echo", urgency=urgency)
        self.assertEqual(pair.client.channels, ())
        error = self.assertRaises(ServiceNotFound, pair.run, pair.client.open("é" * 127))
        self.assertEqual(error.code, ResetCode.SERVICE_NOT_FOUND)

    def test_channels_over_the_peers_limit_are_refused(self) -> None:
        pair = self.connect({"echo": Echo}, settings=SessionSettings(max_channels=3))
        inboxes = [pair.run(pair.client.open("echo")) for _ in range(3)]
        error = self.assertRaises(ChannelReset, pair.run, pair.client.open("echo"))
        self.assertEqual(error.code, ResetCode.LIMIT_EXCEEDED)
        inboxes[0].channel.end()
        pair.run(inboxes[0].channel.when_closed())
        self.check_alive(pair)

    # --- messages ----------------------------------------------------------------------

    def test_messages_of_all_sizes_arrive_in_order_both_ways(self) -> None:
        pair, mine, theirs = self.join()
        sizes = (0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 0, self.large, 2)
        up = [noise(size, 1) for size in sizes]
        down = [noise(size, 2) for size in reversed(sizes)]
        for message in up:
            mine.channel.send(message)
        for message in down:
            theirs.channel.send(message)
        pair.run_until(lambda: len(theirs.messages) == len(up))
        pair.run_until(lambda: len(mine.messages) == len(down))
        self.assertTrue(theirs.messages == up)
        self.assertTrue(mine.messages == down)
        self.assertTrue(all(type(message) is bytes for message in mine.messages))

    def test_compressible_messages_arrive_as_they_were(self) -> None:
        pair, mine, theirs = self.join()
        messages = [b"ab" * (size // 2) for size in (600, 64 * KIB, 64 * KIB + 2, self.large)]
        for message in messages:
            mine.channel.send(message)
        pair.run_until(lambda: len(theirs.messages) == len(messages))
        self.assertTrue(theirs.messages == messages)

    def test_a_buffer_may_be_changed_after_it_was_sent(self) -> None:
        pair, mine, theirs = self.join()
        buffer = bytearray(b"as it was")
        mine.channel.send(buffer)
        mine.channel.send(memoryview(buffer)[3:])
        buffer[:] = b"overwrite"
        pair.run_until(lambda: len(theirs.messages) == 2)
        self.assertEqual(theirs.messages, [b"as it was", b"it was"])

    def test_many_channels_with_messages_of_random_sizes(self) -> None:
        seed = 2024
        chance = random.Random(seed)
        pair = self.connect({"echo": Echo})
        inboxes = [
            pair.run(pair.client.open("echo", urgency=chance.randrange(8))) for _ in range(30)
        ]
        sent: dict[int, list[bytes]] = {inbox.channel.id: [] for inbox in inboxes}
        for number in range(200):
            inbox = chance.choice(inboxes)
            message = noise(chance.choice((0, 1, 100, 3000, 70_000)), number)
            sent[inbox.channel.id].append(message)
            inbox.channel.send(message)
        for inbox in inboxes:
            got = [pair.run(inbox.get()) for _ in sent[inbox.channel.id]]
            self.assertTrue(got == sent[inbox.channel.id], f"seed {seed}")

    def test_what_is_sent_at_opening_arrives_first(self) -> None:
        class Greeter(Recorder):
            def channel_opened(self) -> None:
                super().channel_opened()
                self.channel.send(b"welcome")

        pair = self.connect({"greeter": Greeter})
        mine = pair.run(pair.client.open("greeter", Greeter()))
        pair.run_until(lambda: bool(mine.messages))
        self.assertEqual(mine.events, ["opened", "message"])

    # --- modes -------------------------------------------------------------------------

    def join_mode(
        self, mode: Mode, deadline: float | None = None, **options: Any
    ) -> tuple[SessionPair, Recorder, Any]:
        """As `join`, for a channel of that mode."""
        registry = Registry(lambda: Recorder(stay=True))
        pair = self.connect({"service": registry}, **options)
        mine = Recorder(stay=True)
        pair.run(pair.client.open("service", mine, mode=mode, deadline=deadline))
        return pair, mine, registry.made[0]

    def test_both_sides_know_the_mode_and_the_deadline(self) -> None:
        for mode, deadline in (
            (Mode.ORDERED, None),
            (Mode.ORDERED, 2.5),
            (Mode.UNORDERED, None),
            (Mode.UNORDERED, 0.001),
            (Mode.EXPIRING, 4294967.295),
        ):
            with self.subTest(mode=mode.name, deadline=deadline):
                pair, mine, theirs = self.join_mode(mode, deadline)
                for side in (mine, theirs):
                    self.assertIs(side.channel.mode, mode)
                    self.assertEqual(side.channel.deadline, deadline)
                for sender, receiver in ((mine, theirs), (theirs, mine)):
                    copies = 20 if mode is Mode.EXPIRING else 1  # of which some may expire
                    for _ in range(copies):
                        sender.channel.send(b"words")
                    pair.run_until(lambda it=receiver: it.messages)
                    self.assertEqual(set(receiver.messages), {b"words"})

    def test_deadlines_out_of_range_are_refused_locally(self) -> None:
        pair = self.connect({"echo": Echo})
        for deadline in (0, -1.0, 4294967.3, 1e300, float("inf"), float("nan")):
            for mode in Mode:
                with self.assertRaises(ValueError):
                    pair.client.open("echo", mode=mode, deadline=deadline)
        with self.assertRaises(ValueError):
            pair.client.open("echo", mode=Mode.EXPIRING)
        self.assertEqual(pair.client.channels, ())
        self.check_alive(pair)

    def test_messages_without_order_all_arrive_and_then_the_end(self) -> None:
        pair, mine, theirs = self.join_mode(Mode.UNORDERED)
        sizes = (0, 1, 64 * KIB, 64 * KIB + 1, self.large, 5, 300_000, *range(100, 300))
        up = [noise(size, 1) for size in sizes]
        down = [noise(size, 2) for size in sizes] + [bytes(200_000)]
        for side, messages in ((mine, up), (theirs, down)):
            for message in messages:
                side.channel.send(message)
            side.channel.end()
        pair.run_until(lambda: "closed" in mine.events and "closed" in theirs.events)
        for side, messages in ((theirs, up), (mine, down)):
            self.assertTrue(sorted(side.messages) == sorted(messages))
            self.assertEqual(side.events[-2:], ["end", "closed"])
            self.assertEqual(side.channel.expired, 0)
        self.check_ended(pair, mine, theirs)

    def test_what_expires_is_counted_and_the_rest_arrives(self) -> None:
        pair, mine, theirs = self.join_mode(Mode.EXPIRING, 0.5)
        messages = [noise(100 + number, number) for number in range(1000)]
        for message in messages:
            mine.channel.send(message)
        mine.channel.end()
        pair.run_until(lambda: "end" in theirs.events)
        self.assertLessEqual(set(theirs.messages), set(messages))
        self.assertEqual(len(theirs.messages) + theirs.channel.expired, len(messages))
        self.assertEqual(len(set(theirs.messages)), len(theirs.messages))
        self.assertEqual(theirs.expired, theirs.channel.expired)
        theirs.channel.end()
        pair.run_until(lambda: "closed" in mine.events)
        self.check_ended(pair, mine, theirs)

    def test_large_messages_that_expire_are_whole_or_lost(self) -> None:
        pair, mine, theirs = self.join_mode(Mode.EXPIRING, 0.5, settings=windows(256 * KIB, MIB))
        messages = [noise(200_000, number) for number in range(60)]
        for message in messages:
            mine.channel.send(message)
        mine.channel.end()
        pair.run_until(lambda: "end" in theirs.events)
        self.assertLessEqual(set(theirs.messages), set(messages))
        lost = len(messages) - len(theirs.messages)
        self.assertGreaterEqual(theirs.channel.expired, lost)
        self.assertEqual(bool(theirs.channel.expired), bool(lost))
        theirs.channel.end()
        pair.run_until(lambda: "closed" in mine.events)
        self.check_ended(pair, mine, theirs)

    def test_a_paused_receiver_stops_a_sender_without_order_as_well(self) -> None:
        window = 300_000
        pair, mine, theirs = self.join_mode(Mode.UNORDERED, settings=windows(window, 4 * window))
        theirs.channel.pauseProducing()
        messages = [noise(10_000, number) for number in range(100)]
        for message in messages:
            mine.channel.send(message)
        mine.channel.end()
        pair.advance(14)
        self.assertGreater(mine.channel.queued, 600_000)
        self.assertEqual(theirs.messages, [])
        theirs.channel.resumeProducing()
        pair.run_until(lambda: "end" in theirs.events)
        self.assertTrue(sorted(theirs.messages) == sorted(messages))

    def test_channels_without_order_that_are_reset_leave_the_session_its_credit(self) -> None:
        pair = self.connect({"service": Recorder}, settings=windows(256 * KIB, 512 * KIB))
        for number in range(20):
            mine = Recorder(stay=True)
            mode, deadline = ((Mode.UNORDERED, None), (Mode.EXPIRING, 0.5))[number % 2]
            pair.run(pair.client.open("service", mine, mode=mode, deadline=deadline))
            for size in (100_000, 70_000, 10, 60_000):
                mine.channel.send(noise(size))
            pair.advance(0.002 * number)
            if number % 3:
                mine.channel.reset()
            elif pair.server.channels:
                pair.server.channels[0].reset()
            pair.advance(0.3)
        pair.run_until(lambda: pair.client.channels + pair.server.channels == ())
        self.check_alive(pair)
        other = pair.run(pair.client.open("service", Recorder()))
        for number in range(40):
            other.channel.send(noise(60_000, number))
        pair.run_until(lambda: not other.channel.queued)

    # --- limits ------------------------------------------------------------------------

    def test_a_message_of_the_peers_limit_passes_and_one_byte_more_is_refused_here(self) -> None:
        limit = 100_000
        pair, mine, theirs = self.join(
            settings=SessionSettings(max_message=limit), client_settings=SessionSettings()
        )
        mine.channel.send(noise(limit))
        self.assertRaises(MessageTooLarge, mine.channel.send, bytes(limit + 1))
        mine.channel.send(b"after")
        theirs.channel.send(noise(limit + 1))  # the client takes more than the server does
        pair.run_until(lambda: len(theirs.messages) == 2 and len(mine.messages) == 1)
        self.assertEqual([len(message) for message in theirs.messages], [limit, 5])

    def test_a_sender_that_ignores_the_limit_loses_its_channel_only(self) -> None:
        for limit, size in ((100_000, 100_001), (100_000, self.large), (1000, 1001)):
            for content in (noise(size), bytes(size)):
                with self.subTest(limit=limit, size=size, compressible=content[0] == content[1]):
                    pair, mine, theirs = self.join(
                        settings=SessionSettings(max_message=limit),
                        client_settings=SessionSettings(),
                    )
                    pair.client.peer_hello = pair.client.peer_hello._replace(max_message=1 << 30)
                    other = pair.run(pair.client.open("service", Recorder()))
                    mine.channel.send(content)
                    pair.run_until(lambda mine=mine: "closed" in mine.events)
                    assert isinstance(mine.reason, ChannelReset)
                    self.assertEqual(mine.reason.code, ResetCode.MESSAGE_TOO_LARGE)
                    self.assertIn(str(limit), mine.reason.reason)
                    self.assertEqual(theirs.messages, [])
                    self.assertEqual(theirs.events[-1], "closed")
                    other.channel.send(b"still here")
                    server = other.channel.id
                    self.assertEqual([channel.id for channel in pair.server.channels], [server])

    def test_a_full_queue_raises_and_drains(self) -> None:
        limit = 300_000
        pair, mine, theirs = self.join(
            client_settings=SessionSettings(send_limit=limit, high_water=10_000)
        )
        sent = 0
        with self.assertRaises(QueueFull):
            while sent < 1000:
                mine.channel.send(noise(10_000, sent))
                sent += 1
        self.assertGreaterEqual(mine.channel.queued, limit)
        self.assertLess(mine.channel.queued, limit + 2 * 10_000)
        pair.run(mine.channel.drained())
        self.assertLessEqual(mine.channel.queued, 5_000)
        mine.channel.send(b"again")
        pair.run_until(lambda: len(theirs.messages) == sent + 1)
        self.assertTrue(theirs.messages[:-1] == [noise(10_000, n) for n in range(sent)])

    def test_a_queue_of_empty_messages_is_bounded_as_well(self) -> None:
        _, mine, _ = self.join(client_settings=SessionSettings(send_limit=10_000))
        with self.assertRaises(QueueFull):
            for _ in range(10_000):
                mine.channel.send(b"")

    # --- ends --------------------------------------------------------------------------

    def test_the_client_ends_first_and_the_server_goes_on(self) -> None:
        pair, mine, theirs = self.join(lambda: Recorder(stay=True))
        closed = [mine.channel.when_closed(), theirs.channel.when_closed()]
        mine.channel.send(b"last")
        mine.channel.end()
        pair.run_until(lambda: "end" in theirs.events)
        self.assertEqual(theirs.events, ["opened", "message", "end"])
        theirs.channel.send(noise(200_000))
        pair.run_until(lambda: bool(mine.messages))
        self.assertRaises(ChannelClosed, mine.channel.send, b"too late")
        self.assertNoResult(closed[0])
        theirs.channel.end()
        self.assertRaises(ChannelClosed, theirs.channel.send, b"too late")
        for one in closed:
            self.assertIsNone(pair.run(one))
        self.check_ended(pair, mine, theirs)

    def test_the_server_ends_first_and_the_client_goes_on(self) -> None:
        pair, mine, theirs = self.join(lambda: Recorder(stay=True))
        theirs.channel.end()
        pair.run_until(lambda: "end" in mine.events)
        mine.channel.send(noise(200_000))
        mine.channel.end()
        pair.run_until(lambda: "closed" in mine.events and "closed" in theirs.events)
        self.assertEqual(theirs.events, ["opened", "message", "end", "closed"])
        self.check_ended(pair, mine, theirs)

    def test_both_end_at_the_same_moment(self) -> None:
        pair, mine, theirs = self.join(lambda: Recorder(stay=True))
        for side in (mine, theirs):
            side.channel.end()
            side.channel.end()  # again is no harm
        pair.run_until(lambda: "closed" in mine.events and "closed" in theirs.events)
        self.assertEqual(mine.events, ["opened", "end", "closed"])
        self.assertEqual(theirs.events, ["opened", "end", "closed"])
        self.check_ended(pair, mine, theirs)

    def test_an_end_waits_for_all_that_is_queued(self) -> None:
        pair, mine, theirs = self.join()
        messages = [noise(self.large // 4, number) for number in range(8)]
        for message in messages:
            mine.channel.send(message)
        mine.channel.end()
        self.assertRaises(ChannelClosed, mine.channel.send, b"")
        pair.run_until(lambda: "end" in theirs.events)
        self.assertTrue(theirs.messages == messages)
        self.assertEqual(theirs.events.index("end"), 1 + len(messages))
        pair.run_until(lambda: "closed" in mine.events)
        self.check_ended(pair, mine, theirs)

    def test_a_reset_from_either_side_reaches_the_other_with_code_and_reason(self) -> None:
        for by_client in (True, False):
            with self.subTest(by_client=by_client):
                pair, mine, theirs = self.join()
                here, there = (mine, theirs) if by_client else (theirs, mine)
                waiting = [here.channel.when_closed(), there.channel.when_closed()]
                here.channel.send(bytes(100))
                here.channel.reset(77, "not like this — ünicode")
                self.assertEqual(here.events[-1], "closed")
                pair.run_until(lambda there=there: "closed" in there.events)
                for side in (here, there):
                    self.assertIs(type(side.reason), ChannelReset)
                    self.assertEqual(side.reason.code, 77)
                    self.assertEqual(side.reason.reason, "not like this — ünicode")
                    self.assertRaises(ChannelClosed, side.channel.send, b"x")
                    self.assertEqual(side.channel.queued, 0)
                for one in waiting:
                    self.assertEqual(self.failureResultOf(one, ChannelReset).value.code, 77)
                self.assertEqual(pair.client.channels + pair.server.channels, ())

    def test_when_closed_says_the_same_before_and_after_the_reset(self) -> None:
        pair, mine, theirs = self.join()
        mine.channel.reset(77, "gone")
        pair.run_until(lambda: "closed" in theirs.events)
        for side in (mine, theirs):
            late = self.failureResultOf(side.channel.when_closed(), ChannelReset)
            self.assertEqual(late.value.code, 77)

    def test_a_reset_drops_what_is_queued_and_leaves_other_channels_alone(self) -> None:
        pair, mine, theirs = self.join()
        other = pair.run(pair.client.open("service", Recorder()))
        for number in range(4):
            mine.channel.send(noise(self.large // 2, number))
            other.channel.send(noise(self.large // 8, number))
        mine.channel.reset()
        other.channel.end()
        pair.run_until(lambda: "closed" in other.events)
        self.assertIsNone(other.reason)
        pair.run_until(lambda: "closed" in theirs.events)
        self.assertEqual(theirs.reason.code, ResetCode.CANCELLED)

    def test_waiting_for_the_queue_fails_when_the_channel_is_reset(self) -> None:
        pair, mine, theirs = self.join()
        theirs.channel.pauseProducing()
        for number in range(8):
            mine.channel.send(noise(self.large, number))
        waiting = mine.channel.drained()
        theirs.channel.reset(5, "enough")
        self.assertEqual(self.assertRaises(ChannelReset, pair.run, waiting).code, 5)
        self.failureResultOf(mine.channel.drained(), ChannelClosed)

    # --- backpressure --------------------------------------------------------------------

    def test_a_paused_receiver_stops_the_sender_within_the_window(self) -> None:
        window = 300_000
        pair, mine, theirs = self.join(settings=windows(window, 4 * window))
        theirs.channel.pauseProducing()
        messages = [noise(10_000, number) for number in range(100)]
        for message in messages:
            mine.channel.send(message)
        before = pair.client.link.stats.bytes_sent
        pair.advance(14)
        moved = pair.client.link.stats.bytes_sent - before
        self.assertGreater(moved, window // 2)
        self.assertLess(moved, window * 1.1 + 10_000)
        self.assertEqual(theirs.messages, [])
        theirs.channel.resumeProducing()
        pair.run_until(lambda: len(theirs.messages) == len(messages))
        self.assertTrue(theirs.messages == messages)

    def test_pausing_inside_a_message_holds_the_next_one(self) -> None:
        class OneByOne(Recorder):
            def message_received(self, message: bytes) -> None:
                super().message_received(message)
                self.channel.pauseProducing()

        pair, mine, theirs = self.join(OneByOne)
        for number in range(5):
            mine.channel.send(b"%d" % number)
        mine.channel.end()
        for number in range(5):
            pair.run_until(lambda number=number: len(theirs.messages) > number)
            pair.advance(1)
            self.assertEqual(len(theirs.messages), number + 1)
            self.assertNotIn("end", theirs.events)
            theirs.channel.resumeProducing()
        self.assertIn("end", theirs.events)

    def test_a_slow_reader_on_one_channel_does_not_stop_the_others(self) -> None:
        pair, mine, theirs = self.join(settings=windows(256 * KIB, 1 * MIB))
        theirs.channel.pauseProducing()
        for number in range(8):
            mine.channel.send(noise(128 * KIB, number))
        pair.advance(5)
        other = pair.run(pair.client.open("service", Recorder()))
        for number in range(32):
            other.channel.send(noise(128 * KIB, number))
        other.channel.end()
        pair.run_until(lambda: "closed" in other.events)
        self.assertEqual(theirs.messages, [])
        theirs.channel.resumeProducing()
        pair.run_until(lambda: len(theirs.messages) == 8)

    # --- the session's end ---------------------------------------------------------------

    def test_close_finishes_the_channels_and_ends_both_sides_cleanly(self) -> None:
        for closer in ("client", "server"):
            with self.subTest(closer=closer):
                service = Registry()
                pair = self.connect({"service": service})
                mine = pair.run(pair.client.open("service", Recorder()))
                theirs = service.made[0]
                mine.channel.send(noise(self.large // 2))
                gone = getattr(pair, closer).close()
                other = pair.client if closer == "server" else pair.server
                pair.run(other.when_closed())
                pair.run(gone)
                self.assertIsNone(pair.client.close_reason)
                self.assertIsNone(pair.server.close_reason)
                self.assertIsNone(mine.reason)
                self.assertEqual(theirs.received, self.large // 2)
                self.check_closed(pair)

    def test_both_close_at_the_same_moment(self) -> None:
        pair, mine, theirs = self.join()
        mine.channel.send(b"to the server")
        theirs.channel.send(b"to the client")
        closing = [pair.client.close(), pair.server.close()]
        for one in closing:
            pair.run(one)
        self.assertEqual((mine.messages, theirs.messages), ([b"to the client"], [b"to the server"]))
        self.assertIsNone(pair.client.close_reason)
        self.assertIsNone(pair.server.close_reason)
        self.check_closed(pair)

    def test_drain_lets_channels_finish(self) -> None:
        pair, mine, theirs = self.join()
        gone = pair.server.drain("maintenance")
        pair.run_until(lambda: "closing" in mine.events)
        for side in (pair.client, pair.server):
            self.failureResultOf(side.open("service"), SessionClosed)
        mine.channel.send(b"the last word")
        mine.channel.end()
        pair.run(gone)
        pair.run(pair.client.when_closed())
        self.assertEqual(theirs.messages, [b"the last word"])
        self.assertIsNone(mine.reason)
        self.assertIsNone(pair.client.close_reason)
        self.assertIsNone(pair.server.close_reason)

    def test_an_abort_is_a_cut_and_breaks_everything_off(self) -> None:
        pair, mine, theirs = self.join()
        opening, pinging = pair.client.open("service"), pair.client.ping()
        waiting: list[Deferred[Any]] = [mine.channel.when_closed(), opening, pinging]
        pair.server.abort()
        pair.run(pair.client.when_closed())
        pair.run(pair.server.when_closed())
        self.assertIsInstance(pair.client.close_reason, SessionCut)
        self.assertIsInstance(pair.server.close_reason, SessionCut)
        self.assertIsInstance(mine.reason, SessionCut)
        self.assertIsInstance(theirs.reason, SessionCut)
        for one in waiting:
            one.addErrback(lambda failure: failure.trap(SessionCut))
            self.successResultOf(one)
        self.check_closed(pair)

    def test_a_closed_session_takes_nothing_more(self) -> None:
        pair, mine, _ = self.join()
        pair.run(pair.client.close())
        pair.run(pair.server.when_closed())
        self.failureResultOf(pair.client.open("service"), SessionClosed)
        self.failureResultOf(pair.client.ping(), SessionClosed)
        self.failureResultOf(pair.client.when_connected(), SessionClosed)
        self.assertRaises(ChannelClosed, mine.channel.send, b"x")
        mine.channel.end()
        mine.channel.reset()
        mine.channel.resumeProducing()
        self.successResultOf(pair.client.close())
        self.successResultOf(pair.client.drain())
        pair.client.abort()
        self.check_closed(pair)

    # --- what the tests share --------------------------------------------------------------

    def check_alive(self, pair: SessionPair) -> None:
        """The session still works."""
        if "echo" not in pair.server_factory.services:
            pair.server_factory.services["echo"] = Echo
        inbox = pair.run(pair.client.open("echo"))
        inbox.channel.send(b"alive")
        self.assertEqual(pair.run(inbox.get()), b"alive")
        inbox.channel.end()
        pair.run(inbox.channel.when_closed())

    def check_ended(self, pair: SessionPair, *protocols: Recorder) -> None:
        """These channels ended cleanly at both ends."""
        for protocol in protocols:
            self.assertEqual(protocol.events.count("closed"), 1)
            self.assertEqual(protocol.events.count("end"), 1)
            self.assertIsNone(protocol.reason)
        self.assertEqual(pair.client.channels + pair.server.channels, ())
        self.check_alive(pair)

    def check_closed(self, pair: SessionPair) -> None:
        """Nothing of either session is left."""
        self.assertEqual(pair.client.channels + pair.server.channels, ())
        pair.advance(11)  # links over datagrams answer their peers for a while
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        self.assertEqual(pair.server_factory.sessions | pair.client_factory.sessions, set())
