"""How a chat is shown: notices as lines for people, and as objects for programs."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable

from jetstreamproto.cli.failure import clean
from jetstreamproto.services.chat.model.notice import Member, Notice, NoticeKind

_COLOURS = (31, 32, 33, 34, 35, 36, 91, 92, 93, 94, 95, 96)  # of SGR, for names
_DIM = 2
_EVENTS = {
    NoticeKind.JOINED: "{name} has joined {room}",
    NoticeKind.LEFT: "{name} has left {room}",
    NoticeKind.RENAMED: "{name} is called {target} now",
    NoticeKind.TOPIC: "{name} has changed the topic of {room} to: {text}",
    NoticeKind.KICKED: "{name} has kicked {target} from {room}",
    NoticeKind.MUTED: "{name} has muted {target} in {room}",
    NoticeKind.UNMUTED: "{name} lets {target} speak again in {room}",
}


def plain_line(notice: Notice) -> str:
    """One line, without anything that a terminal would act on."""
    name, target, text = clean(notice.name), clean(notice.target), clean(notice.text)
    if notice.kind is NoticeKind.SAID:
        return f"{name}: {text}"
    if notice.kind is NoticeKind.TOLD:
        return f"{name} -> {target}: {text}"
    if notice.kind is NoticeKind.KICKED and not name:
        return f"* no longer in {clean(notice.room)}: {text}"
    form = _EVENTS[notice.kind]
    return "* " + form.format(name=name, target=target, text=text, room=clean(notice.room))


def notice_object(notice: Notice, own: bool) -> dict[str, object]:
    """For `--json`: what there is of it; `own` says that it is about what we did."""
    shown: dict[str, object] = {"event": notice.kind.name.lower(), "own": own}
    for key in ("room", "name", "target", "text", "sequence"):
        if value := getattr(notice, key):
            shown[key] = value
    if notice.time:
        shown["time"] = notice.time / 1e6
    return shown


def members_line(members: Iterable[Member]) -> str:
    """Who is there."""
    return ", ".join(
        clean(one.name) + (" (owner)" if one.owner else "") + (" (muted)" if one.muted else "")
        for one in members
    )


class TerminalView:
    """Lines with the time, and colours unless `NO_COLOR` is set or the terminal has none."""

    def __init__(self) -> None:
        dumb = os.environ.get("TERM", "dumb") == "dumb"
        self._coloured = not dumb and not os.environ.get("NO_COLOR")

    def line(self, notice: Notice, room: str) -> str:
        """A notice, for somebody who looks at `room`."""
        when = time.strftime("%H:%M", time.localtime(notice.time / 1e6)) if notice.time else "--:--"
        text = plain_line(notice)
        if notice.kind is NoticeKind.SAID:
            name, _, said = text.partition(": ")
            text = f"{self._name(name)}: {said}"
            if notice.room != room:
                text = f"[{clean(notice.room)}] {text}"
        elif notice.kind is NoticeKind.TOLD:
            name, _, said = text.partition(" -> ")
            text = f"{self._name(name)} -> {said}"
        else:
            text = self._paint(text, _DIM)
        return f"{self._paint(when, _DIM)} {text}"

    def remark(self, text: str) -> str:
        """Something of this program's own, or what the server says to a command."""
        return self._paint(f"* {clean(text)}", _DIM)

    def _name(self, name: str) -> str:
        return self._paint(name, _COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)])

    def _paint(self, text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text
