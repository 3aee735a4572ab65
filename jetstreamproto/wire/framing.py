"""Cutting a byte stream into frames: by a length field, a delimiter or a fixed size.

A framing is a frozen value holding the settings. It encodes payloads, and makes decoders, each
of which carries the state of one stream::

    framing = LengthDelimited(2, max_length=4096)
    wire = framing.encode(b"hello")              # b"\\x00\\x05hello"
    decoder = framing.decoder()
    decoder.feed(wire[:3])                       # []
    decoder.feed(wire[3:] + wire)                # [b"hello", b"hello"]
    decoder.finish()                             # the stream ended between two frames

Nothing here does I/O: feed a decoder whatever arrived, however it was chopped. The work is
linear in the bytes fed, and `Decoder` says how bad input is reported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Protocol, TypeAlias

from jetstreamproto.errors import FrameTooLong, WireError

__all__ = ["BytesLike", "Decoder", "Delimited", "FixedLength", "Framing", "LengthDelimited"]

BytesLike: TypeAlias = bytes | bytearray | memoryview


class Decoder(ABC):
    """The frames of one stream; made by a framing's `decoder()`.

    The first bytes that break a rule end the decoding for good: what is buffered is dropped,
    and every later `feed` and `finish` raises the same error. Frames that were complete before
    those bytes are never lost: a `feed` that has some returns them, and leaves the error to the
    next call. `failure` tells at once, for a caller who would otherwise wait for more input::

        for frame in decoder.feed(data):
            handle(frame)
        if decoder.failure is not None:
            give_up(decoder.failure)
    """

    __slots__ = ("_buffer", "_failure")

    def __init__(self) -> None:
        # The beginning of one frame, never a whole one: complete frames leave in the same feed.
        self._buffer = bytearray()
        self._failure: WireError | None = None

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are buffered."""
        return len(self._buffer)

    @property
    def failure(self) -> WireError | None:
        """The error that ended the decoding, whether or not it has been raised yet."""
        return self._failure

    def feed(self, data: BytesLike) -> list[bytes]:
        """Take the stream's next bytes; return the frames they complete, in order.

        Raises `FrameTooLong` for a frame beyond the framing's limit, as soon as that can be
        known, and `WireError` for any other broken rule; the class says which call raises it.
        """
        if self._failure is not None:
            # Without the reset, every raise would make the shared traceback longer.
            raise self._failure.with_traceback(None)
        if not isinstance(data, bytes):
            data = bytes(data)
        frames: list[bytes] = []
        try:
            start = self._resume(data, frames) if self._buffer else 0
            if start < len(data):
                start = self._cut(data, start, frames)
                self._buffer += data[start:]
        except WireError as error:
            self._fail(error)
            if not frames:
                raise
        return frames

    def finish(self) -> None:
        """The stream has ended: raise `WireError` if that was inside a frame."""
        if self._failure is None and self._buffer:
            self._fail(WireError(f"the stream ended {self.pending} bytes into a frame"))
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def _fail(self, error: WireError) -> None:
        self._failure = error
        self._buffer.clear()

    def _take(self) -> bytes:
        """Empty the buffer, returning what it held."""
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    @abstractmethod
    def _resume(self, data: bytes, frames: list[bytes]) -> int:
        """Go on with the frame in the buffer; return how many bytes of `data` it took.

        Only that frame's own bytes are buffered, so the buffer never outgrows one frame and
        whatever follows in `data` is cut without a detour.
        """

    @abstractmethod
    def _cut(self, data: bytes, start: int, frames: list[bytes]) -> int:
        """Append the whole frames in `data[start:]`; return where the unfinished one begins."""


class Framing(Protocol):
    """What `LengthDelimited`, `Delimited` and `FixedLength` have in common."""

    def encode(self, payload: BytesLike, /) -> bytes:
        """Return `payload` as one frame, ready to be sent; ValueError if it cannot be one."""

    def decoder(self) -> Decoder:
        """Return a fresh decoder, for one stream."""


@dataclass(frozen=True, slots=True)
class LengthDelimited:
    """Frames that say how long they are, in a field at a fixed place.

    On the wire a frame is `length_offset` bytes of the application's, the length field, and
    the payload::

        | head: length_offset bytes | length field: length_width bytes | payload |

    The settings mean what they mean to tokio_util's LengthDelimitedCodec:

    `length_width`       size of the length field, 1 to 8 bytes
    `byteorder`          of the length field, "big" or "little"
    `length_offset`      bytes before the length field
    `num_skip`           bytes dropped off a frame's front before it is delivered; by default
                         everything up to the end of the length field
    `length_adjustment`  what is added to the length field's value to get the number of bytes
                         after those `num_skip`, which are the bytes delivered
    `max_length`         the most bytes delivered as one frame, after adjusting (there: before)

    So to have the length field count the whole frame, set `length_adjustment` to minus the size
    of what is skipped; to have the header delivered too, set `num_skip` to 0 and
    `length_adjustment` to the header's size.

    Raises ValueError, naming the setting, for one that cannot be used.
    """

    length_width: int = 4
    _: KW_ONLY
    byteorder: Literal["big", "little"] = "big"
    length_offset: int = 0
    length_adjustment: int = 0
    num_skip: int | None = None
    max_length: int = 8 * 1024 * 1024

    def __post_init__(self) -> None:
        if not 1 <= self.length_width <= 8:
            raise ValueError(f"length_width must be 1 to 8 bytes, not {self.length_width}")
        if self.byteorder not in ("big", "little"):
            raise ValueError(f"byteorder must be 'big' or 'little', not {self.byteorder!r}")
        if self.length_offset < 0:
            raise ValueError(f"length_offset must not be negative: {self.length_offset}")
        if self.num_skip is not None and self.num_skip < 0:
            raise ValueError(f"num_skip must not be negative: {self.num_skip}")
        if self.max_length < 0:
            raise ValueError(f"max_length must not be negative: {self.max_length}")

    @property
    def header_size(self) -> int:
        """How many bytes come before the payload: the head and the length field."""
        return self.length_offset + self.length_width

    def header(self, payload_size: int, head: bytes = b"") -> bytes:
        """Return what to send before a payload of `payload_size` bytes.

        For payloads too large to be copied by `encode`: send the header, then the payload.
        `head` is the application's part, exactly `length_offset` bytes. Raises `FrameTooLong`
        if the frame would exceed `max_length` or its length the length field; ValueError if the
        head has another size, or if the payload is so short that `num_skip` or
        `length_adjustment` would make a length negative.
        """
        if len(head) != self.length_offset:
            raise ValueError(f"a head of {len(head)} bytes where {self.length_offset} belong")
        skipped = self.header_size if self.num_skip is None else self.num_skip
        size = self.header_size + payload_size - skipped
        length = size - self.length_adjustment
        if size > self.max_length:
            raise FrameTooLong(f"a frame of {size} bytes where {self.max_length} are allowed")
        if length >> 8 * self.length_width > 0:
            raise FrameTooLong(f"length {length} does not fit {self.length_width} bytes")
        if size < 0 or length < 0:
            raise ValueError(f"a payload of {payload_size} bytes is too short for this framing")
        return head + length.to_bytes(self.length_width, self.byteorder)

    def encode(self, payload: BytesLike, head: bytes = b"") -> bytes:
        """Return head, length field and payload as one frame; raises as `header` does."""
        size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
        return self.header(size, head) + payload

    def decoder(self) -> Decoder:
        """Return a decoder for one stream of such frames.

        It refuses a frame as soon as the length field is there: with `FrameTooLong` beyond
        `max_length`, with `WireError` if the frame would end before its own length field does.
        """
        return _LengthDecoder(self)


class _LengthDecoder(Decoder):
    __slots__ = (
        "_adjustment",
        "_byteorder",
        "_header_size",
        "_max_size",
        "_min_size",
        "_num_skip",
        "_offset",
        "_wire_size",
    )

    def __init__(self, framing: LengthDelimited) -> None:
        super().__init__()
        self._adjustment = framing.length_adjustment
        self._byteorder = framing.byteorder
        self._offset = framing.length_offset
        self._header_size = framing.header_size
        self._num_skip = framing.header_size if framing.num_skip is None else framing.num_skip
        self._min_size = max(0, self._header_size - self._num_skip)
        self._max_size = framing.max_length
        # Of the frame in the buffer; of no meaning until its header is there.
        self._wire_size = 0

    def _measure(self, data: bytes | bytearray, start: int) -> int:
        """Return the size on the wire of the frame at `start`, whose header is there."""
        field = data[start + self._offset : start + self._header_size]
        size = int.from_bytes(field, self._byteorder) + self._adjustment
        if size > self._max_size:
            raise FrameTooLong(f"a frame of {size} bytes where {self._max_size} are allowed")
        if size < self._min_size:
            raise WireError("the length field says that the frame ends inside its own header")
        return self._num_skip + size

    def _resume(self, data: bytes, frames: list[bytes]) -> int:
        buffer = self._buffer
        used = 0
        if len(buffer) < self._header_size:
            used = self._header_size - len(buffer)
            buffer += data[:used]
            if len(buffer) < self._header_size:
                return len(data)
            self._wire_size = self._measure(buffer, 0)
        end = used + self._wire_size - len(buffer)
        buffer += data[used:end]
        if len(buffer) < self._wire_size:
            return len(data)
        del buffer[: self._num_skip]
        frames.append(self._take())
        return end

    def _cut(self, data: bytes, start: int, frames: list[bytes]) -> int:
        end = len(data)
        while end - start >= self._header_size:
            size = self._measure(data, start)
            if size > end - start:
                self._wire_size = size
                break
            frames.append(data[start + self._num_skip : start + size])
            start += size
        return start


@dataclass(frozen=True, slots=True)
class Delimited:
    """Frames that end with a delimiter, which therefore cannot occur in them: lines, say.

    `max_length` is the most bytes in a frame, the delimiter not counted. Frames are delivered
    without their delimiter if `strip`, and with it otherwise. Raises ValueError, naming the
    setting, for one that cannot be used.
    """

    delimiter: bytes = b"\n"
    _: KW_ONLY
    max_length: int = 64 * 1024
    strip: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.delimiter, bytes) or not self.delimiter:
            raise ValueError(f"delimiter must be bytes, at least one: {self.delimiter!r}")
        if self.max_length < 0:
            raise ValueError(f"max_length must not be negative: {self.max_length}")

    def encode(self, payload: BytesLike) -> bytes:
        """Return `payload` and the delimiter, whether or not decoders strip it.

        Raises `FrameTooLong` beyond `max_length`, ValueError if the frame would end early
        because of a delimiter in the payload, or in what the payload's end and it make together.
        """
        frame = bytes(payload) + self.delimiter
        size = len(frame) - len(self.delimiter)
        if size > self.max_length:
            raise FrameTooLong(f"a frame of {size} bytes where {self.max_length} are allowed")
        if frame.find(self.delimiter) != size:
            raise ValueError(f"the payload contains the delimiter {self.delimiter!r}")
        return frame

    def decoder(self) -> Decoder:
        """Return a decoder for one stream of such frames.

        It refuses a frame with `FrameTooLong` as soon as `max_length` bytes and the size of a
        delimiter have come without one.
        """
        return _DelimiterDecoder(self)


class _DelimiterDecoder(Decoder):
    __slots__ = ("_delimiter", "_kept", "_limit", "_max_length")

    def __init__(self, framing: Delimited) -> None:
        super().__init__()
        self._delimiter = framing.delimiter
        self._kept = 0 if framing.strip else len(framing.delimiter)
        self._max_length = framing.max_length
        self._limit = framing.max_length + len(framing.delimiter)

    def _check(self, size: int) -> None:
        """Refuse a frame that has `size` bytes and still no delimiter, if that is too many."""
        if size >= self._limit:
            raise FrameTooLong(f"no end of frame within {self._max_length} bytes")

    def _resume(self, data: bytes, frames: list[bytes]) -> int:
        buffer = self._buffer
        held = len(buffer)
        buffer += data[: self._limit - held]
        # What was held has no delimiter, but may end with the beginning of one.
        found = buffer.find(self._delimiter, max(0, held - len(self._delimiter) + 1))
        if found < 0:
            self._check(len(buffer))
            return len(data)
        del buffer[found + self._kept :]
        frames.append(self._take())
        return found + len(self._delimiter) - held

    def _cut(self, data: bytes, start: int, frames: list[bytes]) -> int:
        while (found := data.find(self._delimiter, start, start + self._limit)) >= 0:
            frames.append(data[start : found + self._kept])
            start = found + len(self._delimiter)
        self._check(len(data) - start)
        return start


@dataclass(frozen=True, slots=True)
class FixedLength:
    """Frames of `size` bytes each, at least 1, with nothing between them.

    Raises ValueError for another `size`.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 byte, not {self.size}")

    def encode(self, payload: BytesLike) -> bytes:
        """Return `payload` itself; ValueError (`FrameTooLong` if longer) for another size."""
        frame = bytes(payload)
        if len(frame) > self.size:
            raise FrameTooLong(f"a frame of {len(frame)} bytes where {self.size} are allowed")
        if len(frame) < self.size:
            raise ValueError(f"a frame of {len(frame)} bytes where {self.size} belong")
        return frame

    def decoder(self) -> Decoder:
        """Return a decoder for one stream of such frames; only its `finish` ever raises."""
        return _FixedDecoder(self)


class _FixedDecoder(Decoder):
    __slots__ = ("_size",)

    def __init__(self, framing: FixedLength) -> None:
        super().__init__()
        self._size = framing.size

    def _resume(self, data: bytes, frames: list[bytes]) -> int:
        missing = self._size - len(self._buffer)
        self._buffer += data[:missing]
        if len(data) < missing:
            return len(data)
        frames.append(self._take())
        return missing

    def _cut(self, data: bytes, start: int, frames: list[bytes]) -> int:
        stop = len(data) - (len(data) - start) % self._size
        frames += [data[at : at + self._size] for at in range(start, stop, self._size)]
        return stop
