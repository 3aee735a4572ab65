"""Chat between clients and the service, over sessions in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.errors import (
    ChannelClosed,
    ChannelReset,
    ChatError,
    NotAllowed,
    ServiceNotFound,
    SessionCut,
)
from jetstreamproto.services.chat.client import ChatClient
from jetstreamproto.services.chat.messages import (
    ANSWER,
    CHAT,
    CLIENT_SIZE,
    REQUEST,
    VERSION,
    Action,
    Answer,
    Request,
)
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.limits import ChatLimits
from jetstreamproto.services.chat.model.notice import Member, NoticeKind
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from tests.doubles import make_pair, noise
from tests.unit.services.chat.house import ChatCase


class RoomTests(ChatCase):
    def test_what_one_says_all_in_the_room_hear(self) -> None:
        al, bo, other = self.person("al"), self.person("bo"), self.person("cy", "elsewhere")
        self.heard(al)
        self.run_now(al.say("Lobby", "hello, 世界 👋"))
        for client in (al, bo):
            (notice,) = self.heard(client)
            self.assertEqual(notice[:5], (NoticeKind.SAID, "lobby", "al", "", "hello, 世界 👋"))
            self.assertEqual(notice.sequence, 1)
            self.assertLess(0, self.server.events.wall() - notice.time)
        self.assertEqual(self.heard(other), [])

    def test_presence(self) -> None:
        al = self.person("al")
        bo = self.person("bo")
        self.assertEqual(self.shown(al), [("JOINED", "lobby", "bo")])
        self.assertEqual(list(al.rooms["lobby"].members), ["al", "bo"])
        self.assertEqual(
            bo.rooms["lobby"].members, {"al": Member("al", owner=True), "bo": Member("bo")}
        )
        self.run_now(bo.part("lobby"))
        self.fails(bo.say("lobby", "x"), ChatError, ChatCode.NOT_IN_ROOM)
        self.assertEqual(self.shown(al), [("LEFT", "lobby", "bo")])
        self.assertEqual(self.run_now(al.who("lobby")), (Member("al", owner=True),))
        self.assertEqual(self.shown(bo), [])

    def test_who_closes_or_is_cut_off_has_left(self) -> None:
        al, bo = self.person("al"), self.person("bo")
        bo.close()
        cy = self.person("cy")
        self.pair.cut()
        self.assertEqual(
            self.shown(al),
            [("JOINED", "lobby", "bo"), ("LEFT", "lobby", "bo"), ("JOINED", "lobby", "cy"),
             ("LEFT", "lobby", "cy")],
        )  # fmt: skip
        self.fails(cy.say("lobby", "x"), SessionCut)
        self.fails(bo.get(), ChannelClosed)

    def test_history_for_who_comes_later(self) -> None:
        al = self.person("al")
        for number in range(5):
            self.run_now(al.say("lobby", f"{number}"))
        self.run_now(self.person("cy", "other").say("other", "not that"))
        bo = self.client("bo")
        room = self.run_now(bo.join("lobby", history=3))
        self.assertEqual([one.text for one in room.history], ["2", "3", "4"])
        self.assertEqual([one.name for one in room.history], ["al"] * 3)
        self.assertEqual(self.run_now(bo.join("lobby", history=0)).history, ())

    def test_what_is_kept_outlives_the_server(self) -> None:
        al = self.person("al")
        room = al.rooms["lobby"]
        self.run_now(room.say("one"))
        self.run_now(room.set_topic("Tea"))
        self.person("bo")
        self.run_now(room.mute("bo"))
        guest = self.client()
        self.run_now(guest.join("park"))
        self.run_now(guest.say("park", "birds"))
        self.restart()
        bo = self.client("bo")
        room = self.run_now(bo.join("lobby"))
        self.assertEqual((bo.name, room.topic, room.history[0].text), ("bo", "Tea", "one"))
        self.fails(room.say("x"), ChatError, ChatCode.MUTED)
        self.fails(self.client("cy", "AL").join("lobby"), ChatError, ChatCode.NAME_TAKEN)
        al = self.client("al")
        self.assertTrue(self.run_now(al.join("lobby")).members["al"].owner)
        self.assertEqual(self.run_now(al.join("park")).history[0].text, "birds")

    def test_topics(self) -> None:
        al, bo = self.person("al"), self.person("bo")
        self.heard(al)
        self.fails(bo.set_topic("lobby", "x"), ChatError, ChatCode.NOT_OWNER)
        self.run_now(al.set_topic("lobby", "Tea at four"))
        self.assertEqual(self.shown(bo), [("TOPIC", "lobby", "al", "Tea at four")])
        self.assertEqual(bo.rooms["lobby"].topic, "Tea at four")
        self.assertEqual(self.run_now(self.person("cy").join("lobby")).topic, "Tea at four")

    def test_anybody_sets_the_topic_of_a_room_without_owner(self) -> None:
        guest = self.client()
        self.run_now(guest.join("park"))
        al = self.person("al", "park")
        self.run_now(al.set_topic("park", "Birds"))
        self.fails(al.kick("park", guest.name), ChatError, ChatCode.NOT_OWNER)

    def test_one_person_with_two_connections(self) -> None:
        al, bo = self.person("al"), self.person("bo")
        again = self.person("bo")
        self.assertEqual(self.shown(al), [("JOINED", "lobby", "bo")])
        self.run_now(al.tell("BO", "psst"))
        for client in (bo, again):
            self.assertEqual(self.shown(client), [("TOLD", "al", "bo", "psst")])
        bo.close()
        self.assertEqual(self.shown(al), [])
        again.close()
        self.assertEqual(self.shown(al), [("LEFT", "lobby", "bo")])

    def test_scopes_of_access(self) -> None:
        self.server.events.granted = {"rooms": ("lobby", "team-*")}
        al = self.client("al")
        self.run_now(al.join("LOBBY"))
        self.run_now(al.join("team-1"))
        refused = self.fails(al.join("lobby2"), NotAllowed, ResetCode.NOT_ALLOWED)
        self.assertIn("lobby2", str(refused))
        self.run_now(al.say("lobby", "still here"))

    def test_direct_messages(self) -> None:
        al, bo = self.person("al"), self.person("bo", "elsewhere")
        self.run_now(al.tell("bo", "psst"))
        self.assertEqual(self.shown(bo), [("TOLD", "al", "bo", "psst")])
        self.assertEqual(self.shown(al), [])
        self.fails(al.tell("cy", "psst"), ChatError, ChatCode.NO_SUCH_PERSON)


class NameTests(ChatCase):
    def test_names_belong_to_who_claimed_them_first(self) -> None:
        al, bo = self.person("al"), self.person("bo")
        self.heard(al)
        self.assertEqual(self.run_now(bo.rename("Bonnie")), "Bonnie")
        self.assertEqual(self.shown(al), [("RENAMED", "bo", "Bonnie")])
        self.assertEqual(list(al.rooms["lobby"].members), ["al", "Bonnie"])
        self.fails(al.rename("BONNIE"), ChatError, ChatCode.NAME_TAKEN)
        self.fails(al.rename("bo"), ChatError, ChatCode.NAME_TAKEN)  # still theirs
        self.run_now(bo.rename("bo"))
        bo.close()
        self.advance(1)
        self.fails(al.rename("bonnie"), ChatError, ChatCode.NAME_TAKEN)
        bo = self.client("bo")
        self.run_now(bo.join("lobby"))
        self.assertEqual(bo.name, "bo")

    def test_guests_own_nothing(self) -> None:
        one, two = self.client(), self.client(name="al")
        self.run_now(one.join("lobby"))
        self.run_now(two.join("lobby"))
        self.assertEqual((one.name, two.name), ("guest-00a0", "guest-al"))
        self.fails(one.rename("AL"), ChatError, ChatCode.NAME_TAKEN)
        self.assertEqual(self.run_now(two.rename("bo")), "guest-bo")
        self.assertEqual(self.run_now(one.rename("guest-al")), "guest-al")
        user = self.client("user")
        self.fails(user.rename("Guest-x"), ChatError, ChatCode.INVALID)
        self.assertEqual(self.run_now(user.rename("al")), "al")

    def test_so_many_names_and_no_more(self) -> None:
        al = self.person("al")
        for name in ("b", "c", "d"):
            self.run_now(al.rename(name))
        self.fails(al.rename("e"), ChatError, ChatCode.LIMIT)
        self.assertEqual(self.run_now(al.rename("B")), "B")

    def test_a_claim_that_is_not_kept_is_none(self) -> None:
        al = self.person("al")
        self.server.registry._db.execute("DROP TABLE names")
        self.fails(al.rename("bo"), ChatError, ChatCode.STORE_FAILED)
        self.assertEqual(al.name, "al")
        self.assertEqual(self.server.hall.people._owners, {"al": "user:al"})


class ModerationTests(ChatCase):
    limits = ChatLimits(kick_time=60, mutes=1, bans=1)

    def setUp(self) -> None:
        super().setUp()
        self.al, self.bo = self.person("al"), self.person("bo")
        self.room = self.al.rooms["lobby"]
        self.heard(self.al)

    def test_kick(self) -> None:
        self.run_now(self.room.kick("BO"))
        for client in (self.al, self.bo):
            self.assertEqual(self.shown(client), [("KICKED", "lobby", "al", "bo")])
        self.assertEqual((list(self.room.members), self.bo.rooms), (["al"], {}))
        refused = self.fails(self.bo.join("lobby"), ChatError, ChatCode.KICKED)
        self.assertEqual(round(refused.retry_after), 60)
        self.run_now(self.bo.join("elsewhere"))
        self.fails(self.person("bo", "third").join("lobby"), ChatError, ChatCode.KICKED)
        self.advance(60)
        self.run_now(self.bo.join("lobby"))

    def test_a_guest_who_was_kicked_comes_not_back_by_another_name(self) -> None:
        guest = self.client(name="x")
        self.run_now(guest.join("lobby"))
        self.run_now(self.room.kick("guest-x"))
        guest.close()
        self.fails(self.client(name="y").join("lobby"), ChatError, ChatCode.KICKED)

    def test_mute(self) -> None:
        self.run_now(self.room.mute("bo"))
        self.run_now(self.room.mute("bo"))
        self.assertEqual(self.shown(self.bo), [("MUTED", "lobby", "al", "bo")])
        self.assertTrue(self.bo.rooms["lobby"].members["bo"].muted)
        for refused in (self.bo.say("lobby", "x"), self.bo.set_topic("lobby", "x")):
            self.fails(refused, ChatError, ChatCode.MUTED)
        self.assertEqual(self.said(self.al), [])
        self.run_now(self.room.unmute("bo"))
        self.run_now(self.bo.say("lobby", "again"))
        self.assertEqual(self.said(self.al), ["again"])

    def test_only_the_owner_may_and_not_be(self) -> None:
        for request in (self.bo.kick, self.bo.mute, self.bo.unmute):
            self.fails(request("lobby", "al"), ChatError, ChatCode.NOT_OWNER)
        for own in (self.room.kick("al"), self.room.mute("al")):
            self.fails(own, ChatError, ChatCode.INVALID)
        self.fails(self.room.kick("cy"), ChatError, ChatCode.NO_SUCH_PERSON)
        self.person("cy", "elsewhere")
        self.fails(self.room.kick("cy"), ChatError, ChatCode.NO_SUCH_PERSON)

    def test_lists_are_bounded(self) -> None:
        self.person("cy")
        self.run_now(self.room.mute("bo"))
        self.fails(self.room.mute("cy"), ChatError, ChatCode.LIMIT)
        self.run_now(self.room.kick("bo"))
        self.fails(self.room.kick("cy"), ChatError, ChatCode.LIMIT)
        self.advance(61)
        self.run_now(self.room.kick("cy"))


class LimitTests(ChatCase):
    limits = ChatLimits(
        rooms=3, owned_rooms=2, members=2, people=4, connections=2, joined=2, burst=10, rate=2
    )

    def test_too_fast(self) -> None:
        al = self.person("al")  # HELLO is before that
        for number in range(9):
            self.run_now(al.say("lobby", f"{number}"))
        refused = self.fails(al.say("lobby", "x"), ChatError, ChatCode.TOO_FAST)
        self.assertLessEqual(refused.retry_after, 0.5)
        self.fails(self.client("al").who("lobby"), ChatError, ChatCode.TOO_FAST)
        al.close()
        self.advance(0.01)
        al = self.client("al")
        self.fails(al.join("lobby"), ChatError, ChatCode.TOO_FAST)  # coming back does not help
        self.advance(1)
        self.run_now(al.join("lobby"))

    def test_rooms(self) -> None:
        al = self.person("al")
        self.run_now(al.join("two"))
        self.fails(al.join("three"), ChatError, ChatCode.LIMIT)
        self.run_now(al.part("two"))
        self.fails(al.join("three"), ChatError, ChatCode.LIMIT)  # two is still theirs
        bo = self.person("bo", "three")
        self.fails(self.client().join("four"), ChatError, ChatCode.LIMIT)
        self.run_now(bo.join("lobby"))
        self.fails(self.client("bo").join("lobby2"), ChatError, ChatCode.LIMIT)

    def test_a_room_that_nobody_owns_makes_way(self) -> None:
        guest = self.client()
        for name in ("one", "two", "three", "four"):
            self.run_now(guest.join(name))
            self.run_now(guest.say(name, name))
            self.run_now(guest.part(name))
            self.advance(5)
        self.assertEqual([*self.server.hall.rooms._rooms], ["two", "three", "four"])

    def test_members_people_and_connections(self) -> None:
        self.person("al")
        self.person("bo")
        self.fails(self.client("cy").join("lobby"), ChatError, ChatCode.LIMIT)
        self.person("bo", "two")
        self.fails(self.client("bo").join("two"), ChatError, ChatCode.LIMIT)
        self.run_now(self.client("di").join("two"))
        self.fails(self.client("em").join("two"), ChatError, ChatCode.LIMIT)

    def test_texts(self) -> None:
        al = self.person("al")
        for text in ("", "  ", "x" * 4097, "ä" * 2049, "a\nb", "\x1b[31m", "\x9b", "\u202e", "\0"):
            with self.assertRaises(ChatError) as raised:
                al.say("lobby", text)
            self.assertEqual(raised.exception.code, ChatCode.INVALID)
            asked = al._ask(Action.SAY, room="lobby", text=text)  # past the client's own check
            self.fails(Deferred.fromCoroutine(asked), ChatError, ChatCode.INVALID)
            self.advance(0.5)
        self.assertEqual(self.heard(al), [])


class ProtocolTests(ChatCase):
    """What a client that is no friend may send."""

    def setUp(self) -> None:
        super().setUp()
        self.pair = self.server.pair("al")
        self.inbox: Inbox = self.run_now(self.pair.client.open(CHAT))

    def ask(self, *, number: int = 1, **fields: Any) -> Answer:
        self.inbox.channel.send(REQUEST.encode(Request(number=number, **fields)))
        return ANSWER.decode(self.run_now(self.inbox.get()))

    def hello(self) -> None:
        answer = self.ask(version=VERSION, name="al", client=bytes(CLIENT_SIZE))
        self.assertEqual((answer.code, answer.number, answer.name), (0, 1, "al"))

    def assert_reset(self, code: int) -> None:
        reset = self.fails(self.inbox.get(), ChannelReset)
        self.assertEqual(reset.code, code)
        self.run_now(self.pair.client.ping())
        self.assertEqual(self.server.hall.people._here, {})

    def test_bytes_that_are_no_message(self) -> None:
        self.hello()
        self.inbox.channel.send(b"\xff" * 100)
        self.assert_reset(ResetCode.BAD_MESSAGE)

    def test_a_message_that_is_too_large(self) -> None:
        self.inbox.channel.send(bytes(70_000))
        self.assert_reset(ResetCode.MESSAGE_TOO_LARGE)

    def test_no_hello(self) -> None:
        self.advance(11)
        self.assert_reset(ResetCode.TIMED_OUT)

    def test_other_versions_and_actions_are_refused(self) -> None:
        wrong = self.ask(version=VERSION + 1, client=bytes(CLIENT_SIZE))
        self.assertEqual(wrong.code, ChatCode.UNSUPPORTED)
        self.assertEqual(self.ask(version=VERSION, client=b"x").code, ChatCode.INVALID)
        self.assertEqual(self.ask(action=Action.JOIN, room="x").code, ChatCode.INVALID)
        self.hello()
        self.assertEqual(self.ask(action=99).code, ChatCode.UNSUPPORTED)
        self.assertEqual(self.ask(action=Action.HELLO).code, ChatCode.UNSUPPORTED)
        self.assertEqual(self.ask(action=Action.JOIN, room="lobby", number=7).number, 7)

    def test_every_request_of_a_stranger_to_the_room(self) -> None:
        self.hello()
        for action in (*range(Action.PART, Action.SAY + 1), *range(Action.TOPIC, 11)):
            answer = self.ask(action=action, room="lobby", name="al", text="x")
            self.assertEqual(answer.code, ChatCode.NOT_IN_ROOM, Action(action))

    def test_requests_are_answered_in_order_however_many(self) -> None:
        self.hello()
        for number in range(2, 202):
            request = Request(number=number, action=Action.WHO, room="lobby")
            self.inbox.channel.send(REQUEST.encode(request))
        answers = [ANSWER.decode(self.run_now(self.inbox.get())) for _ in range(200)]
        self.assertEqual([one.number for one in answers], [*range(2, 202)])
        codes = [one.code for one in answers]
        self.assertEqual(codes[:10], [ChatCode.NOT_IN_ROOM] * 10)
        self.assertEqual(codes[-1], ChatCode.TOO_FAST)

    def test_who_does_not_read_is_cut_off(self) -> None:
        self.hello()
        self.ask(action=Action.JOIN, room="lobby")
        bo = self.person("bo")
        other, self.pair = self.pair, self.server.pair()
        self.inbox.channel.pauseProducing()
        for number in range(700):
            self.run_now(bo.say("lobby", noise(2000, number).hex()))  # which LZ4 cannot shorten
            self.advance(0.25)
            self.heard(bo, 0)
        self.assertEqual(list(bo.rooms["lobby"].members), ["bo"])
        self.inbox.channel.resumeProducing()
        with self.assertRaises(ChannelReset) as raised:
            for _ in range(1000):
                other.run(self.inbox.get())
        self.assertEqual(raised.exception.code, ChatCode.TOO_SLOW)

    def test_a_server_without_chat(self) -> None:
        self.pair = make_pair({}, clock=self.clock)
        client = ChatClient(self.pair.client)
        self.fails(client.join("lobby"), ServiceNotFound)
        self.fails(client.join("lobby"), ServiceNotFound)
