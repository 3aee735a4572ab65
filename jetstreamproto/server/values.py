"""The kinds of values that settings have, and how each is read from text and from TOML.

Every reader returns the value or raises `ValueError` with a sentence that names what was given
and what is expected; whoever calls knows which setting it was.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_SIZE = re.compile(r"([0-9]{1,18}) ?(?:([KMG])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_FEC_GROUP = re.compile(r"([1-9][0-9]{0,2})\+([1-9][0-9]{0,2})", re.ASCII)
_FEC_SHARES = 256  # of GF(2^8): source and repair packets of a group together

CONGESTION = ("bbr", "cubic", "newreno")
"""The kinds of congestion control."""
FEC_OFF, FEC_ADAPTIVE = "off", "adaptive"


class Kind(Protocol):
    """How one kind of value is read."""

    def from_text(self, text: str) -> object:
        """The value that a command line gives."""

    def from_toml(self, value: object, folder: Path) -> object:
        """The value that a TOML file in `folder` gives."""


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    def from_text(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        return self._within(number)

    def from_toml(self, value: object, folder: Path) -> int:
        if type(value) is not int:
            raise ValueError(f"{value!r} is not a whole number")
        return self._within(value)

    def _within(self, number: int) -> int:
        if not self.low <= number <= self.high:
            raise ValueError(f"{number} is not from {self.low} to {self.high}")
        return number


@dataclass(frozen=True)
class Size(Whole):
    """A number of bytes, with or without a unit: 65536, 64K, 16M, 16MiB, 1G."""

    def from_text(self, text: str) -> int:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a size such as 65536, 64K or 16M")
        number, unit = match.groups(default="")
        return self._within(int(number) * _UNITS[unit.upper()])

    def from_toml(self, value: object, folder: Path) -> int:
        if isinstance(value, str):
            return self.from_text(value)
        return super().from_toml(value, folder)


@dataclass(frozen=True)
class Seconds:
    """A time above zero, up to `high` seconds; zero too, where that means never."""

    high: float
    zero: bool = False

    def from_text(self, text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number of seconds") from None
        return self._within(seconds)

    def from_toml(self, value: object, folder: Path) -> float:
        if type(value) not in (int, float):
            raise ValueError(f"{value!r} is not a number of seconds")
        return self._within(float(value))  # type: ignore[arg-type]

    def _within(self, seconds: float) -> float:
        if self.zero and seconds == 0:
            return 0.0
        if not math.isfinite(seconds) or not 0 < seconds <= self.high:
            raise ValueError(f"{seconds:g} is not above 0 and at most {self.high:.0f} seconds")
        return seconds


@dataclass(frozen=True)
class Location:
    """The path of a file or folder. In a TOML file it is relative to that file."""

    def from_text(self, text: str) -> Path:
        return self._resolved(text, Path())

    def from_toml(self, value: object, folder: Path) -> Path:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a path")
        return self._resolved(value, folder)

    def _resolved(self, text: str, folder: Path) -> Path:
        if not text or "\0" in text:
            raise ValueError(f"{text!r} is not a path")
        return (folder / text).absolute()


@dataclass(frozen=True)
class SharedFolder:
    """A folder that peers may read, and write where it is `writable`."""

    path: Path
    writable: bool


@dataclass(frozen=True)
class Shared:
    """A folder and what peers may do there: `DIR` or `DIR:ro`, and `DIR:rw`."""

    def from_text(self, text: str) -> SharedFolder:
        return self.from_toml(text, Path())

    def from_toml(self, value: object, folder: Path) -> SharedFolder:
        writable = isinstance(value, str) and value.endswith(":rw")
        if isinstance(value, str) and value.endswith((":rw", ":ro")):
            value = value[:-3]
        return SharedFolder(Location().from_toml(value, folder), writable)


@dataclass(frozen=True)
class Word:
    """One word, read by `read_word`."""

    read_word: Callable[[str], str]

    def from_text(self, text: str) -> str:
        return self.read_word(text.strip())

    def from_toml(self, value: object, folder: Path) -> str:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a word")
        return self.from_text(value)


@dataclass(frozen=True)
class Names:
    """One or more names, each read by `read_name`: separated by commas, in TOML a list."""

    read_name: Callable[[str], str]

    def from_text(self, text: str) -> tuple[str, ...]:
        return self._read(text.split(","))

    def from_toml(self, value: object, folder: Path) -> tuple[str, ...]:
        if isinstance(value, str):
            return self.from_text(value)
        return self._read(text_list(value))

    def _read(self, names: list[str]) -> tuple[str, ...]:
        if not names:
            raise ValueError("the list is empty")
        return tuple(dict.fromkeys(self.read_name(name.strip()) for name in names))


@dataclass(frozen=True)
class Flag:
    """Yes or no: given or not on a command line, true or false in TOML."""

    def from_text(self, text: str) -> bool:
        return True

    def from_toml(self, value: object, folder: Path) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is neither true nor false")
        return value


def read_congestion(text: str) -> str:
    """The name of a kind of congestion control."""
    if text not in CONGESTION:
        raise ValueError(f"{text!r} is not one of {', '.join(CONGESTION)}")
    return text


def read_fec(text: str) -> str:
    """`off`, `adaptive`, or `K+R`: after K packets, R from which any R lost ones can be rebuilt."""
    if text in (FEC_OFF, FEC_ADAPTIVE):
        return text
    match = _FEC_GROUP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {FEC_OFF}, {FEC_ADAPTIVE} or K+R, such as 10+2")
    if sum(map(int, match.groups())) > _FEC_SHARES:
        raise ValueError(f"{text!r} is a group of more than {_FEC_SHARES} packets")
    return text


def text_list(value: object) -> list[str]:
    """`value` if it is a list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{value!r} is not a list of strings")
    return value
