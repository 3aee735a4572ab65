"""What survives lost sessions and restarts of the server: rooms, names, what is being said."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from jetstreamproto.errors import ChatError, SessionClosed
from jetstreamproto.services.chat.messages import CHAT
from jetstreamproto.services.chat.model.notice import NoticeKind
from jetstreamproto.session.codes import ResetCode
from tests.unit.services.chat.house import ChatCase


class ReconnectingTests(ChatCase):
    def setUp(self) -> None:
        super().setUp()
        self.bo = self.person("bo")
        self.other = self.pair
        self.al = self.reconnecting("al", "al")
        self.room = self.run_now(self.al.join("lobby"))
        self.heard(self.bo)

    def test_rooms_are_joined_again_and_nothing_said_is_missed(self) -> None:
        self.run_now(self.al.join("two"))
        self.run_now(self.al.part("two"))
        self.run_now(self.bo.say("lobby", "before"))
        self.pair.cut()
        for number in range(3):
            self.run_now(self.bo.say("lobby", f"{number}"))
        self.advance(5)
        self.run_now(self.bo.say("lobby", "after"))
        self.assertEqual(self.said(self.al), ["before", "0", "1", "2", "after"])
        self.assertEqual(list(self.al.rooms), ["lobby"])
        self.assertEqual(self.al.reconnects, 1)
        self.assertEqual(
            self.shown(self.bo)[:4],
            [
                ("SAID", "lobby", "bo", "before"),
                ("LEFT", "lobby", "al"),
                ("SAID", "lobby", "bo", "0"),
                ("SAID", "lobby", "bo", "1"),
            ],
        )

    def test_what_was_said_before_joining_is_no_news_after_a_cut(self) -> None:
        self.run_now(self.bo.say("lobby", "long ago"))
        cy = self.reconnecting("cy", "cy")
        self.run_now(cy.join("lobby", history=0))
        self.pair.cut()
        self.advance(5)
        self.assertEqual(self.shown(cy), [])

    def test_the_server_is_started_again(self) -> None:
        self.run_now(self.al.say("lobby", "before"))
        self.heard(self.al)
        self.restart()
        self.advance(5)
        self.run_now(self.al.say("lobby", "after"))
        self.assertEqual(self.said(self.al), ["after"])
        self.assertEqual((self.al.name, list(self.room.members)), ("al", ["al"]))

    def test_what_was_being_said_is_said_once(self) -> None:
        self.server.events.journal.held = True
        saying = self.al.say("lobby", "once")
        self.advance(0.1)  # it is with the journal
        self.pair.cut()
        self.server.events.journal.release()
        self.advance(5)
        self.successResultOf(saying)
        self.assertEqual(self.said(self.bo), ["once"])
        self.assertEqual(self.said(self.al), ["once"])

    def test_whether_a_direct_message_came_is_not_known(self) -> None:
        telling = self.al.tell("bo", "psst")
        self.pair.cut()
        self.fails(telling, SessionClosed)

    def test_who_was_kicked_meanwhile_is_told(self) -> None:
        self.pair.cut()
        self.server.hall.rooms.find("lobby").bans["user:al"] = self.clock.seconds() + 600
        self.advance(5)
        (notice,) = self.heard(self.al)
        self.assertEqual((notice.kind, notice.target), (NoticeKind.KICKED, "al"))
        self.assertEqual(self.al.rooms, {})

    def test_a_guest_whose_name_is_still_there_gets_another(self) -> None:
        guest = self.reconnecting(None, "x")
        self.run_now(guest.join("lobby"))
        self.assertEqual(guest.name, "guest-x")
        other = self.pair
        self.pair.client.abort()  # and the server hears nothing of it
        other.server_transport.pause()
        self.advance(2)
        self.assertIn(guest.name, ("guest-00a0", "guest-x"))
        self.run_now(guest.say("lobby", "here"))

    def test_a_channel_that_is_cut_alone(self) -> None:
        (channel,) = [one for one in self.pair.server.channels if one.service == CHAT]
        channel.reset(ResetCode.GOING_AWAY, "try again")
        self.advance(5)
        self.run_now(self.al.say("lobby", "x"))
        self.assertEqual(self.al.reconnects, 1)

    def test_a_request_that_is_not_answered_in_time(self) -> None:
        self.server.events.journal.held = True
        saying = self.al.say("lobby", "x")
        saying.addErrback(lambda failure: failure.trap(SessionClosed))
        self.advance(31)
        self.assertIs(self.successResultOf(saying), SessionClosed)
        self.server.events.journal.release()

    @settings(deadline=None, max_examples=15)
    @given(st.integers(0, 1 << 32))
    def test_any_cuts(self, seed: int) -> None:
        """Whatever happens when, everything said is heard once, and in one order by all."""
        dice = random.Random(seed)
        case = ReconnectingTests("test_any_cuts")
        ChatCase.setUp(case)
        self.addCleanup(case.doCleanups)
        clients = [case.reconnecting(name, name) for name in ("al", "bo")]
        pairs = []
        for client in clients:
            case.run_now(client.join("lobby"))
            pairs.append(case.pair)
        sent: list[Deferred[None]] = []
        for number in range(20):
            sent.append(dice.choice(clients).say("lobby", f"{number}"))
            case.advance(dice.choice((0.0, 0.005, 0.012, 0.3, 1.0)))
            if dice.random() < 0.3:
                dice.choice(case.server._pairs).cut()
        refused = set()
        for number, saying in enumerate(sent):
            try:
                case.run_now(saying)
            except ChatError:  # too fast
                refused.add(f"{number}")
        case.advance(10)
        heard = [case.said(client) for client in clients]
        self.assertEqual(heard[0], heard[1], f"seed {seed}")
        said = {f"{number}" for number in range(20)} - refused
        self.assertEqual(sorted(heard[0]), sorted(said), f"seed {seed}")
