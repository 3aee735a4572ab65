"""What people and rooms may be called, and what may be said.

Names are letters, marks and digits of any script in normal form NFKC (Unicode annex 15), with
nothing invisible. Two names are the same if they are equal without regard to case.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final

from jetstreamproto.errors import ChatError
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.limits import MAX_NAME, MAX_ROOM, MAX_TEXT, MAX_TOPIC

GUEST: Final = "guest-"
"""What the names of those begin with who have not proved who they are; nobody owns these."""
EVERY_ROOM: Final = ("*",)

_JOINERS = "-_"
_GUEST_DIGITS = 4  # hexadecimal, of a name that the server makes
# Default_Ignorable_Code_Point among letters and marks (Unicode's DerivedCoreProperties.txt)
_INVISIBLE = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
_JOINING = "\u200c\u200d"  # which scripts and emoji are written with
_REFUSED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def check_name(text: str) -> str:
    """The name of a person as it is shown. Raises `ChatError`."""
    return _check_word(text, "name", MAX_NAME)


def check_room(text: str) -> str:
    """The name of a room, in small letters. Raises `ChatError`."""
    return _check_word(name_key(_check_word(text, "room", MAX_ROOM)), "room", MAX_ROOM)


def name_key(name: str) -> str:
    """What is equal of names that are the same."""
    return unicodedata.normalize("NFKC", name.casefold())


def guest_name(wanted: str, number: int) -> str:
    """What a guest is called who wants that name, or none: `number` is random."""
    if not wanted:
        return f"{GUEST}{number % 16**_GUEST_DIGITS:0{_GUEST_DIGITS}x}"
    name = check_name(wanted)
    return name if name_key(name).startswith(GUEST) else check_name(GUEST + name)


def check_text(text: str) -> str:
    """A message that may be sent. Raises `ChatError`."""
    checked = _check_line(text, "message", MAX_TEXT)
    if not checked.strip():
        raise ChatError(ChatCode.INVALID, "a message without any text")
    return checked


def check_topic(text: str) -> str:
    """A topic; the empty one is none. Raises `ChatError`."""
    return _check_line(text, "topic", MAX_TOPIC)


def read_room_pattern(text: str) -> str:
    """A room's name, or the beginning of one and `*`, in small letters; raises `ValueError`."""
    if text == "*":
        return text
    prefix = text.removesuffix("*")
    try:
        return check_room(prefix) + text[len(prefix) :]
    except ChatError as error:
        raise ValueError(f"{text!r} is not a room, or the beginning of one and *") from error


def room_allowed(patterns: Sequence[str], room: str) -> bool:
    """Whether one of the patterns matches a room's name."""
    return any(
        room.startswith(pattern[:-1]) if pattern.endswith("*") else room == pattern
        for pattern in patterns
    )


def _check_word(text: str, what: str, most: int) -> str:
    if len(text) > 4 * most:  # before any work on it
        raise ChatError(ChatCode.INVALID, f"a {what} has 1 to {most} characters")
    word = unicodedata.normalize("NFKC", text)
    if not 0 < len(word) <= most:
        raise ChatError(ChatCode.INVALID, f"a {what} has 1 to {most} characters")
    for letter in word:
        kind = unicodedata.category(letter)[0]
        if (kind not in "LMN" and letter not in _JOINERS) or letter in _INVISIBLE:
            raise ChatError(
                ChatCode.INVALID, f"{text!a} is no {what}: letters, digits, - and _ are"
            )
    if unicodedata.category(word[0])[0] not in "LN":
        raise ChatError(ChatCode.INVALID, f"{text!a} is no {what}: a letter or digit is first")
    return word


def _check_line(text: str, what: str, most: int) -> str:
    if len(text) > most or (not text.isascii() and len(text.encode("utf-8", "replace")) > most):
        raise ChatError(ChatCode.INVALID, f"a {what} has at most {most} bytes")
    if not text.isprintable():
        for letter in text:
            if letter not in _JOINING and unicodedata.category(letter) in _REFUSED:
                raise ChatError(
                    ChatCode.INVALID,
                    f"a {what} is one line, without the control character U+{ord(letter):04X}",
                )
    return text
