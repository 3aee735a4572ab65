"""The messages of the service `files`, as `wire/schema/files.fbs` declares them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from jetstreamproto.errors import SchemaError, WireError
from jetstreamproto.services.files.model import DIGEST_SIZE, EntryKind, Overwrite, Verdict
from jetstreamproto.wire.codec import Codec
from jetstreamproto.wire.layout import lay_out_tail
from jetstreamproto.wire.schema_parser import load_schema

PartFields: TypeAlias = tuple[int, int, memoryview]
"""Kind, number and body of one message."""


class Kind(IntEnum):
    """What a message is for."""

    NONE = 0
    GET = 1
    LIST = 2
    FOLDER = 3
    FILE = 4
    HAVE = 5
    PIECE = 6
    FINISH = 7
    DONE = 8
    ENTRIES = 9
    ALIVE = 10
    AHEAD = 11


class Get(NamedTuple):
    """Asks for a file. `limit` is in bytes a second, 0 for none."""

    path: str
    limit: int = 0


class List(NamedTuple):
    """Asks what is in a folder, or about one file; `deep` for what is in its folders, too."""

    path: str
    deep: bool = False


class MakeFolder(NamedTuple):
    """Asks for a folder, and those above it."""

    path: str


class File(NamedTuple):
    """The sender's description of what it offers. `mtime_ns` counts from 1970.

    `ahead` says that the first piece follows before there is an answer.
    """

    path: str
    size: int = 0
    sized: bool = True
    mtime_ns: int = 0
    mode: int = 0o644
    overwrite: Overwrite = Overwrite.ALWAYS
    dry_run: bool = False
    ahead: bool = False


class Have(NamedTuple):
    """The receiver's answer: whether to send, and the digests of the chunks it has.

    `ahead` says that it takes the piece that was sent ahead, which is not to be sent again.
    """

    verdict: Verdict
    chunk_size: int = 0
    digests: bytes = b""
    ahead: bool = False


class Finish(NamedTuple):
    """Everything was sent: what the whole file must be now.

    `other` says that what the receiver had was of another version of it.
    """

    size: int
    digest: bytes
    other: bool = False


class Entry(NamedTuple):
    """One entry of a listing; `path` is relative to the folder that was asked for."""

    path: str
    kind: EntryKind
    size: int
    mtime_ns: int
    mode: int


class Entries(NamedTuple):
    """A part of a listing."""

    entries: tuple[Entry, ...]
    unnamed: int = 0


class _Part(NamedTuple):
    kind: int
    number: int
    body: memoryview


_SCHEMA = load_schema("files.fbs")
_CODEC = Codec(_SCHEMA, "Part", _Part)
_LAYOUT = lay_out_tail(_SCHEMA.table("Part"), size_prefixed=False)
if _LAYOUT.names != ("number", "kind"):
    raise SchemaError(f"files.fbs: Part starts with the unknown fields {_LAYOUT.names}")

GET: Final = Codec(_SCHEMA, "Get", Get)
LIST: Final = Codec(_SCHEMA, "List", List)
FOLDER: Final = Codec(_SCHEMA, "Folder", MakeFolder)
FILE: Final = Codec(_SCHEMA, "File", File)
HAVE: Final = Codec(_SCHEMA, "Have", Have)
FINISH: Final = Codec(_SCHEMA, "Finish", Finish)
ENTRIES: Final = Codec(_SCHEMA, "Entries", Entries)

_CONSTANTS: Final = _LAYOUT.constants
_HEAD_SIZE: Final = _LAYOUT.head.size
_pack = _LAYOUT.head.pack


def encode_part(kind: Kind, body: bytes | memoryview = b"", number: int = 0) -> bytes:
    """One message. The body is copied once."""
    return b"".join((_pack(_CONSTANTS, number, kind, len(body)), body))


def decode_part(message: bytes) -> PartFields:
    """Kind (it may be one that `Kind` does not have), number and body, which is not copied.

    Raises `WireError` for bytes that are no `Part`.
    """
    if len(message) >= _HEAD_SIZE:
        found, number, kind, length = _LAYOUT.head.unpack_from(message)
        if found == _CONSTANTS and length == len(message) - _HEAD_SIZE:
            return kind, number, memoryview(message)[_HEAD_SIZE:]
    kind, number, body = _CODEC.decode(message)
    return kind, number, body


def read_digest(body: bytes | memoryview) -> bytes:
    """The digest in a body. Raises `WireError` if it has another size."""
    if len(body) != DIGEST_SIZE:
        raise WireError(f"a digest of {len(body)} bytes, not {DIGEST_SIZE}")
    return bytes(body)
