"""LZ4 blocks for single payloads, and the policy that decides which payloads get one.

A block carries no size: the receiver's own limit is the only bound on what it expands to.

Compression makes the length of what is sent depend on its content. Where one payload mixes a
secret with text that an attacker chooses, the lengths give the secret away, encrypted or not
(CRIME, BREACH). Nothing here can tell: a session must not compress a channel marked secret.
"""

from __future__ import annotations

from dataclasses import dataclass

import lz4.block

from jetstreamproto.errors import WireError

__all__ = ["CompressionPolicy", "Compressor", "compress", "decompress"]

# No byte of a block stands for more than this many bytes of output (a full match length byte).
_MAX_EXPANSION = 255
# LZ4 counts output in a C int.
_MAX_OUTPUT = 2**31 - 1

# Payloads over _SAMPLED_FROM bytes are judged by their first _SAMPLE_SIZE bytes. On data that
# does not compress, the sample saves most of the cost; on other data it adds a quarter at most.
_SAMPLE_SIZE = 4 * 1024
_SAMPLED_FROM = 16 * 1024


def compress(data: bytes | bytearray | memoryview) -> bytes:
    """Return `data` as an LZ4 block without a size; it may be a little larger than `data`."""
    block: bytes = lz4.block.compress(data, store_size=False)
    return block


def decompress(block: bytes | bytearray | memoryview, limit: int) -> bytes:
    """Return what `compress` was given, if that is at most `limit` bytes.

    Raises `WireError` if `block` is corrupt or its content exceeds `limit`; LZ4 does not tell
    which. Memory use is bounded by `limit` and by 255 times the size of `block`, whatever the
    block says. A negative `limit` is a ValueError.
    """
    if limit < 0:
        # LZ4 would take it for leave to believe a size in the block.
        raise ValueError(f"limit must not be negative: {limit}")
    capacity = min(limit, _MAX_EXPANSION * len(block), _MAX_OUTPUT)
    try:
        data: bytes = lz4.block.decompress(block, uncompressed_size=capacity)
    except lz4.block.LZ4BlockError:
        raise WireError(f"a compressed block is corrupt or exceeds {limit} bytes") from None
    return data


@dataclass(frozen=True, slots=True)
class CompressionPolicy:
    """When to compress, and when to give up trying for a while.

    `min_size`    bytes below which a payload is not worth it
    `min_saving`  the share of a payload's bytes that its block must save, 0 to 1
    `max_skip`    the most payloads passed over before trying again; 0 tries every one

    Raises ValueError, naming the setting, for one that cannot be used.
    """

    min_size: int = 512
    min_saving: float = 0.1
    max_skip: int = 64

    def __post_init__(self) -> None:
        if self.min_size < 0:
            raise ValueError(f"min_size must not be negative: {self.min_size}")
        if not 0 <= self.min_saving < 1:
            raise ValueError(f"min_saving must be from 0 to below 1, not {self.min_saving}")
        if self.max_skip < 0:
            raise ValueError(f"max_skip must not be negative: {self.max_skip}")

    def pays(self, size: int, block_size: int) -> bool:
        """Whether a block of `block_size` bytes saves enough on a payload of `size` bytes."""
        saved = size - block_size
        return saved > 0 and saved >= self.min_saving * size


class Compressor:
    """Compresses the payloads of one channel in one direction where its policy finds it pays.

    After a payload that does not pay, the next 1, 2, 4 ... `max_skip` payloads of at least
    `min_size` are passed over before another is tried; one that pays starts that anew. A large
    payload is judged by its beginning first. Not for channels marked secret: see the module.
    """

    __slots__ = ("_last_skip", "_to_skip", "policy")

    def __init__(self, policy: CompressionPolicy) -> None:
        self.policy = policy
        self._to_skip = 0
        self._last_skip = 0

    def compress(self, payload: bytes | memoryview) -> bytes | None:
        """Return `payload`'s LZ4 block, or None to have it sent as it is.

        A memoryview must be contiguous and of single bytes.
        """
        if len(payload) < self.policy.min_size:
            return None
        if self._to_skip:
            self._to_skip -= 1
            return None
        block = self._attempt(payload)
        if block is None:
            self._last_skip = min(max(1, 2 * self._last_skip), self.policy.max_skip)
            self._to_skip = self._last_skip
        else:
            self._last_skip = 0
        return block

    def _attempt(self, payload: bytes | memoryview) -> bytes | None:
        pays = self.policy.pays
        if len(payload) > _SAMPLED_FROM:
            sample = compress(payload[:_SAMPLE_SIZE])
            if not pays(_SAMPLE_SIZE, len(sample)):
                return None
        block = compress(payload)
        return block if pays(len(payload), len(block)) else None
