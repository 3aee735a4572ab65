"""The writes of a batch as lines of text: words as on the command line, or a JSON object each."""

from __future__ import annotations

import base64
import binascii
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TypeVar

from jetstreamproto.cli.failure import StreamFailed
from jetstreamproto.errors import KeyValueError
from jetstreamproto.services.kv.batch import any_revision, keep_ttl, merge_step, set_step
from jetstreamproto.services.kv.model import (
    MAX_BATCH,
    MAX_STEPS,
    MAX_TTL,
    NO_TTL,
    VALUE,
    Action,
    Refusal,
    Step,
    check_step,
)

T = TypeVar("T")

_OPTIONS = ("ttl", "revision", "field")


class Line:
    """What one line says, by name. Its methods raise `ValueError` for what does not fit."""

    def __init__(self, said: Mapping[str, object]) -> None:
        self._said = {name: value for name, value in said.items() if value is not None}

    def take(self, name: str, kind: type[T]) -> T:
        """What has to be there."""
        if name not in self._said:
            raise ValueError(f"{name!r} is missing")
        value = self._said.pop(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{name!r} is not {_KINDS[kind]}")
        return value

    def take_if_any(self, name: str, kind: type[T]) -> T | None:
        """The same where it need not be there."""
        return self.take(name, kind) if name in self._said else None

    def ttl(self) -> float | None:
        """Seconds to live."""
        seconds = self.take_if_any("ttl", object)
        if seconds is None:
            return None
        if not isinstance(seconds, float | int) or not 0 < seconds <= MAX_TTL / 1000:
            raise ValueError("'ttl' is not a number of seconds that a key can live")
        return seconds

    def revision(self) -> int | None:
        """The revision that a key must have."""
        revision = self.take_if_any("revision", int)
        if revision is not None and revision < 0:
            raise ValueError("'revision' is not 0 or more")
        return revision

    def fields(self) -> dict[str, bytes]:
        """Values by the names of fields."""
        found = self.take("fields", dict)
        if not found:
            raise ValueError("'fields' has none")
        return {name: _bytes(f"fields of {name!r}", value) for name, value in found.items()}

    def names(self) -> tuple[str, ...]:
        """Names of fields."""
        found = self.take("fields", list)
        if not found or not all(isinstance(name, str) for name in found):
            raise ValueError("'fields' are not one or more names")
        return tuple(found)

    def value(self) -> bytes:
        """A value."""
        return _bytes("value", self.take("value", object))

    def check_all_taken(self) -> None:
        """What is left is of no use for this operation, so it is a mistake."""
        for name in self._said:
            raise ValueError(f"{name!r} is not for this operation")


_KINDS: Mapping[type, str] = {
    object: "a value",
    str: "a string",
    int: "a whole number",
    dict: "an object of fields and values",
    list: "a list of names",
}


def _set(key: str, line: Line) -> Step:
    return set_step(key, {VALUE: line.value()}, line.ttl(), line.revision())


def _hset(key: str, line: Line) -> Step:
    return merge_step(key, line.fields(), line.ttl(), line.revision())


def _del(key: str, line: Line) -> Step:
    return Step(Action.DELETE, key, revision=any_revision(line.revision()))


def _hdel(key: str, line: Line) -> Step:
    return Step(Action.DELETE, key, line.names())


def _incr(key: str, line: Line) -> Step:
    by, field = line.take_if_any("by", int), line.take_if_any("field", str)
    number = b"%d" % (1 if by is None else by)
    return Step(Action.INCREMENT, key, (field or VALUE,), (number,), ttl=keep_ttl(line.ttl()))


def _expire(key: str, line: Line) -> Step:
    ttl = line.ttl()
    return Step(Action.EXPIRE, key, ttl=NO_TTL if ttl is None else keep_ttl(ttl))


def _check(key: str, line: Line) -> Step:
    revision = line.revision()
    if revision is None:
        raise ValueError("'revision' is missing")
    return Step(Action.CHECK, key, revision=revision)


OPERATIONS: Mapping[str, Callable[[str, Line], Step]] = {
    "set": _set,
    "hset": _hset,
    "del": _del,
    "hdel": _hdel,
    "incr": _incr,
    "expire": _expire,
    "check": _check,
}
"""What a line can ask for."""


def read_batch(given: IO[bytes]) -> tuple[Sequence[Step], Sequence[int]]:
    """The writes, and the number of the line of each. Raises `StreamFailed` that names the line.

    Lines without anything, and those that begin with `#`, are left out.
    """
    try:
        content = given.read(2 * MAX_BATCH + 1)
    except OSError as error:
        raise StreamFailed(f"standard input: {error.strerror}") from error
    if len(content) > 2 * MAX_BATCH:
        raise StreamFailed(f"standard input: a batch has at most {MAX_BATCH} bytes")
    steps: list[Step] = []
    numbers: list[int] = []
    for number, text in enumerate(content.split(b"\n"), 1):
        if not text.strip() or text.lstrip().startswith(b"#"):
            continue
        try:
            if len(steps) == MAX_STEPS:
                raise ValueError(f"a batch has at most {MAX_STEPS} writes")
            steps.append(read_line(text.decode()))
        except (ValueError, Refusal) as error:
            raise StreamFailed(f"{_place(number)}: {_reason(error)}") from error
        numbers.append(number)
    if not steps:
        raise StreamFailed("standard input: there is nothing to be done")
    return steps, numbers


def read_line(text: str) -> Step:
    """One write. Raises `ValueError`, or `Refusal` for what no key could be."""
    line = Line(_read_json(text) if text.lstrip().startswith("{") else _read_words(text))
    name = line.take("op", str)
    if name not in OPERATIONS:
        raise ValueError(f"{name!r} is none of {', '.join(OPERATIONS)}")
    step = OPERATIONS[name](line.take("key", str), line)
    line.check_all_taken()
    check_step(step)
    return step


def at_line(lines: Sequence[int], error: KeyValueError) -> str:
    """Why the server refuses a batch whose writes are from these lines."""
    position = error.position
    known = position is not None and position < len(lines)
    return f"{_place(lines[position or 0])}: {error.reason}" if known else error.reason


def _place(number: int) -> str:
    return f"standard input, line {number}"


def _reason(error: Exception) -> str:
    return "not UTF-8" if isinstance(error, UnicodeError) else str(error)


def _read_json(text: str) -> Mapping[str, object]:
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}, at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("not JSON: too deep") from None
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    return said


def _read_words(text: str) -> Mapping[str, object]:
    """`set KEY VALUE --ttl 5` and so on, with quotes as in a shell."""
    said: dict[str, object] = {}
    plain: list[str] = []
    words = iter(shlex.split(text))
    for word in words:
        name = word.removeprefix("--")
        if word == "--":
            plain.extend(words)
        elif name != word and name in _OPTIONS:
            said[name] = _read_option(name, next(words, None))
        else:
            plain.append(word)
    operation, key, *rest = [*plain, "", ""][: max(2, len(plain))]
    said["op"] = operation
    if key:
        said["key"] = key
    said.update(_read_rest(operation, rest))
    return said


def _read_option(name: str, word: str | None) -> object:
    if word is None:
        raise ValueError(f"--{name} is followed by nothing")
    try:
        return word if name == "field" else float(word) if name == "ttl" else int(word)
    except ValueError:
        raise ValueError(f"--{name}: {word!r} is not a number") from None


def _read_rest(operation: str, rest: list[str]) -> Mapping[str, object]:
    """What follows the key."""
    if operation not in OPERATIONS:
        return {}
    if operation == "hset" and rest:
        if len(rest) % 2:
            raise ValueError(f"{rest[-1]!r} has no value")
        return {"fields": dict(zip(rest[::2], rest[1::2], strict=True))}
    if operation == "hdel" and rest:
        return {"fields": rest}
    taken = operation in ("set", "incr")
    for word in rest[taken:]:
        raise ValueError(f"{word!r} is too much")
    if operation == "set" and rest:
        return {"value": rest[0]}
    if operation == "incr" and rest:
        try:
            return {"by": int(rest[0])}
        except ValueError:
            raise ValueError(f"{rest[0]!r} is not a whole number") from None
    return {}


def _bytes(name: str, value: object) -> bytes:
    """The bytes of a string, or of `{"base64": ...}`."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("base64"), str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except (binascii.Error, ValueError):
            pass
    raise ValueError(f'{name} is neither a string nor {{"base64": ...}}')
