"""How keys and values are printed."""

from __future__ import annotations

import base64
import sys
from typing import TYPE_CHECKING

from jetstreamproto.cli.failure import clean
from jetstreamproto.cli.output import show, show_object, stdout_failure

if TYPE_CHECKING:
    from jetstreamproto.services.kv.model import KeyEntry


def as_value(value: bytes) -> object:
    """What stands for bytes in JSON: a string if they are UTF-8, else `{"base64": ...}`."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def as_object(bucket: str, entry: KeyEntry) -> dict[str, object]:
    """A key for JSON. `value` and `fields` are there if they are known."""
    found: dict[str, object] = {
        "kind": entry.kind.name.lower(),
        "bucket": bucket,
        "key": entry.key,
        "revision": entry.revision,
    }
    if entry.expires:
        found["expires"] = entry.expires / 1000
    if entry.fields is not None:
        named = {name: as_value(value) for name, value in entry.fields.items() if name}
        if entry.value is not None:
            found["value"] = as_value(entry.value)
        if named:
            found["fields"] = named
    return found


def show_entry(bucket: str, entry: KeyEntry, as_json: bool) -> None:
    """Print a key, or its end, as one line."""
    if as_json:
        show_object(as_object(bucket, entry))
        return
    words = [entry.kind.name.lower(), str(entry.revision), f"{bucket}/{clean(entry.key)}"]
    for name, value in (entry.fields or {}).items():
        words.append(f"{clean(name)}={_readable(value)}" if name else _readable(value))
    show("\t".join(words))


def show_value(name: str, value: bytes) -> None:
    """Print one field as a line."""
    show(f"{clean(name)}\t{_readable(value)}")


def show_bytes(value: bytes) -> None:
    """Print bytes as they are. Raises `NobodyReads` or `StreamFailed`."""
    try:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise stdout_failure(error) from error


def _readable(value: bytes) -> str:
    """Text without what a terminal would act on; base64 for what is no text."""
    try:
        return clean(value.decode())
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode()
