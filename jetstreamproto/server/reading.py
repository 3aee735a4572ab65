"""Reading the server's settings: from a command line, and from a TOML file."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.access import AllowRule, read_peer
from jetstreamproto.server.config import KINDS, option_name
from jetstreamproto.server.profiles import read_profiles
from jetstreamproto.server.scopes import scopes_of
from jetstreamproto.server.values import text_list

_ALLOW, _PROFILES = "allow", "profiles"
_PEERS, _SERVICES = "peers", "services"


def read_options(given: Mapping[str, str]) -> dict[str, object]:
    """The settings on a command line, from their texts by name."""
    settings: dict[str, object] = {}
    for key, text in given.items():
        try:
            settings[key] = KINDS[key].from_text(text)
        except ValueError as error:
            raise ConfigurationError(f"--{option_name(key)}: {error}") from None
    return settings


def read_file(path: Path) -> dict[str, object]:
    """The settings in a TOML file. Raises `ConfigurationError` naming the file and the key."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not a text file in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    settings: dict[str, object] = {}
    for key, value in document.items():
        try:
            settings[key] = _read_value(key, value, path.parent)
        except ValueError as error:
            raise ConfigurationError(f"{path}: {key}: {error}") from None
    return settings


def _read_value(key: str, value: object, folder: Path) -> object:
    if key == _ALLOW:
        return _read_rules(value)
    if key == _PROFILES:
        return read_profiles(value)
    if key == "auth":
        return tuple([value] if isinstance(value, str) else text_list(value))
    kind = KINDS.get(key)
    if kind is None:
        known = [*KINDS, "auth", _ALLOW, _PROFILES]
        close = difflib.get_close_matches(key.replace("-", "_"), known, 1)
        raise ValueError("there is no such setting" + (f"; {close[0]}?" if close else ""))
    return kind.from_toml(value, folder)


def _read_rules(value: object) -> tuple[AllowRule, ...]:
    if not isinstance(value, list) or not all(isinstance(rule, dict) for rule in value):
        raise ValueError("rules are written as [[allow]], each with peers and services")
    return tuple(_read_rule(number, rule) for number, rule in enumerate(value, 1))


def _read_rule(number: int, rule: dict[str, object]) -> AllowRule:
    try:
        peers = frozenset(read_peer(peer) for peer in text_list(rule.get(_PEERS, [])))
        services = frozenset(text_list(rule.get(_SERVICES, [])))
        scopes = {
            key: _read_scope(key, value, services)
            for key, value in rule.items()
            if key not in (_PEERS, _SERVICES)
        }
        if not peers or not services:
            raise ValueError("a rule has one or more peers, and one or more services")
    except ValueError as error:
        raise ValueError(f"rule {number}: {error}") from None
    return AllowRule(peers, services, scopes)


def _read_scope(key: str, value: object, services: frozenset[str]) -> tuple[str, ...]:
    known = scopes_of(services)
    if key not in known:
        names = ", ".join((_PEERS, _SERVICES, *known))
        raise ValueError(f"there is no {key!r} in this rule, only {names}")
    return tuple(known[key](pattern) for pattern in text_list(value))
