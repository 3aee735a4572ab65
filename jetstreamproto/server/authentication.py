"""Authentication: users are let in by name and password, which `twisted.cred` checkers judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin, UnhandledCredentials
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.logger import Logger

from jetstreamproto.session.session import Session
from jetstreamproto.wire.session_messages import Hello

_log = Logger()

MAX_CREDENTIAL = 256
"""The longest user name and the longest password that are looked at, in UTF-8 bytes."""


class PasswordAuthentication:
    """Given to `JetStreamServerFactory` as its `authenticate`; the user's name is the avatar.

    The checkers are asked one after the other, and the first that knows the user and the
    password decides. Every refusal is the same, whatever was wrong. With `allow_anonymous` a
    peer that names no user is let in as nobody (its avatar is None).
    """

    def __init__(self, checkers: Sequence[Any], *, allow_anonymous: bool = False) -> None:
        self._checkers = tuple(checkers)
        self._allow_anonymous = allow_anonymous

    def __call__(self, session: Session, hello: Hello) -> Deferred[object]:
        """Fires with the user's name, or fails with `UnauthorizedLogin`."""
        return ensureDeferred(self._judge(hello.username, hello.password))

    async def _judge(self, username: str | None, password: str | None) -> str | None:
        if username is None and password is None and self._allow_anonymous:
            return None
        if username and password is not None and _is_sound(username) and _is_short(password):
            credentials = UsernamePassword(username.encode(), password.encode())
            for checker in self._checkers:
                avatar_id = await _ask(checker, credentials)
                if avatar_id:
                    return _text(avatar_id)
        raise UnauthorizedLogin("no such user, or not the password")


async def _ask(checker: Any, credentials: UsernamePassword) -> object:
    """The avatar id that `checker` finds, or None when it does not let this user in."""
    try:
        return await maybeDeferred(checker.requestAvatarId, credentials)
    except (LoginFailed, UnhandledCredentials):
        return None
    except Exception:
        _log.failure("The checker {checker!r} failed", checker=checker)
        return None


def encode_users(checker: Any) -> None:
    """Make bytes of what `--auth memory:` keeps as str, against its own documentation."""
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        checker.users = {_bytes(name): _bytes(word) for name, word in checker.users.items()}


def _is_sound(username: str) -> bool:
    return username.isprintable() and _is_short(username)


def _is_short(text: str) -> bool:
    return len(text.encode()) <= MAX_CREDENTIAL


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _text(avatar_id: object) -> str:
    return avatar_id.decode() if isinstance(avatar_id, bytes) else str(avatar_id)
