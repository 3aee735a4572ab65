"""What a person types in a chat: lines to say, and commands that begin with a slash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from jetstreamproto.cli.chat_view import members_line
from jetstreamproto.cli.failure import describe
from jetstreamproto.errors import ChatError, JetStreamError
from jetstreamproto.services.chat.client import ChatClient
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.notice import Notice, NoticeKind
from jetstreamproto.services.chat.room import ChatRoom

HELP = """\
/join ROOM       enter a room, or go back to it     /part            leave this room
/who             who is here                        /topic [TEXT]    show or change the topic
/msg NAME TEXT   say something to one person        /nick NAME       be called NAME
/kick NAME       throw somebody out of your room    /mute NAME       let somebody say nothing
/unmute NAME     let somebody speak again           /quit            leave (also Ctrl-D)
//TEXT           say a line that begins with a slash"""


class Typist:
    """Does what is typed. `show` gets what there is to tell, `told` our own direct messages."""

    def __init__(
        self,
        client: ChatClient,
        room: ChatRoom,
        show: Callable[[str], None],
        told: Callable[[Notice], None],
        quit_chat: Callable[[], None],
    ) -> None:
        self.room = room.name
        """The one that is spoken in; empty for none."""
        self._client = client
        self._show = show
        self._told = told
        self._quit = quit_chat
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "help": self._help,
            "join": self._join,
            "kick": self._kick,
            "msg": self._msg,
            "mute": self._mute,
            "nick": self._nick,
            "part": self._part,
            "quit": self._leave,
            "topic": self._topic,
            "unmute": self._unmute,
            "who": self._who,
        }

    async def typed(self, line: str) -> None:
        """One line. What is refused is shown."""
        line = line.replace("\t", " ").rstrip()
        if not line:
            return
        try:
            if line.startswith("/") and not line.startswith("//"):
                word, _, rest = line[1:].partition(" ")
                command = self._commands.get(word.lower())
                if command is None:
                    self._show(f"there is no /{word}; /help lists the commands")
                else:
                    await command(rest.strip())
            else:
                await self._client.say(self._here(), line.removeprefix("/"))
        except JetStreamError as error:
            self._show(describe(error).message)

    def _here(self) -> str:
        if self.room not in self._client.rooms:
            raise ChatError(ChatCode.NOT_IN_ROOM, "you are in no room: /join ROOM")
        return self.room

    async def _help(self, _: str) -> None:
        for line in HELP.splitlines():
            self._show(line)

    async def _join(self, room: str) -> None:
        joined = await self._client.join(room, history=20)
        self.room = joined.name
        for notice in joined.history:
            self._told(notice)
        self._show(entered(joined))

    async def _part(self, _: str) -> None:
        room = self._here()
        await self._client.part(room)
        self._show(f"you have left {room}")
        self.room = next(iter(self._client.rooms), "")

    async def _nick(self, name: str) -> None:
        self._show(f"you are {await self._client.rename(name)}")

    async def _msg(self, rest: str) -> None:
        name, _, text = rest.partition(" ")
        await self._client.tell(name, text)
        self._told(Notice(NoticeKind.TOLD, "", self._client.name, name, text))

    async def _topic(self, text: str) -> None:
        room = self._here()
        if text:
            await self._client.set_topic(room, text)
        else:
            self._show(self._client.rooms[room].topic or f"{room} has no topic")

    async def _who(self, _: str) -> None:
        self._show(members_line(await self._client.who(self._here())))

    async def _kick(self, name: str) -> None:
        await self._client.kick(self._here(), name)

    async def _mute(self, name: str) -> None:
        await self._client.mute(self._here(), name)

    async def _unmute(self, name: str) -> None:
        await self._client.unmute(self._here(), name)

    async def _leave(self, _: str) -> None:
        self._quit()


def entered(room: ChatRoom) -> str:
    """What there is to say of a room that was joined just now."""
    topic = f", topic: {room.topic}" if room.topic else ""
    return f"in {room.name} with {members_line(room.members.values())}{topic}"
