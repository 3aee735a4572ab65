"""Reading `[profiles.NAME]`: socket profiles of a server's own, in its TOML file.

[profiles.edge]
base = "low-latency"
receive_buffer = "8M"
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.values import Flag, Kind, Size, Whole, Word
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, PROFILES, SocketProfile, find_profile

_BASE = "base"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_MOST = 100
_LARGEST = 1 << 40  # the profile knows the range of each number

_KINDS: Mapping[str, Kind] = {
    field.name: (
        Flag()
        if isinstance(field.default, bool)
        else Word(str)
        if isinstance(field.default, str)
        else Size(0, _LARGEST)
        if field.name.endswith("_buffer")
        else Whole(0, _LARGEST)
    )
    for field in dataclasses.fields(SocketProfile)
    if field.name not in ("name", "also")
}


def read_profiles(value: object) -> dict[str, SocketProfile]:
    """The profiles of a file by name. Raises `ValueError`."""
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        raise ValueError("profiles are written as [profiles.NAME], each a table of its options")
    if len(value) > _MOST:
        raise ValueError(f"there are more than {_MOST}")
    return {name: _read_profile(name, options) for name, options in value.items()}


def _read_profile(name: str, options: Mapping[str, object]) -> SocketProfile:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of small letters, digits, - and _")
    if name in PROFILES:
        raise ValueError(f"{name} is there already; give yours another name, and it as {_BASE}")
    base = options.get(_BASE, DEFAULT_PROFILE.name)
    if not isinstance(base, str):
        raise ValueError(f"{name}: {_BASE}: {base!r} is not the name of a profile")
    settings: dict[str, Any] = {
        key: _read_option(name, key, value) for key, value in options.items() if key != _BASE
    }
    try:
        return dataclasses.replace(find_profile(base), name=name, **settings)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None


def _read_option(name: str, key: str, value: object) -> object:
    kind = _KINDS.get(key)
    if kind is None:
        close = difflib.get_close_matches(key.replace("-", "_"), [*_KINDS, _BASE], 1)
        hint = f"; {close[0]}?" if close else ""
        raise ValueError(f"{name}: there is no option {key!r}{hint}")
    try:
        return kind.from_toml(value, Path())
    except ValueError as error:
        raise ValueError(f"{name}: {key}: {error}") from None
