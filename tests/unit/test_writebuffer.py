"""Write buffers: what goes in comes out, in pieces of the size that is asked for."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.writebuffer import WriteBuffer

pieces = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20)


class WriteBufferTests(unittest.TestCase):
    @given(pieces, st.integers(1, 50))
    def test_bytes_come_out_as_they_went_in(self, written: list[bytes], most: int) -> None:
        buffer = WriteBuffer()
        for piece in written:
            buffer.append(piece)
        taken = []
        while buffer.size:
            size = buffer.size
            taken.append(buffer.take(most))
            self.assertEqual(len(taken[-1]), min(most, size))
            self.assertIs(type(taken[-1]), bytes)
        self.assertEqual(b"".join(taken), b"".join(written))

    @given(st.lists(st.one_of(st.binary(min_size=1, max_size=30), st.integers(1, 40))))
    def test_in_any_order_of_calls(self, steps: list[bytes | int]) -> None:
        buffer, expected = WriteBuffer(), b""
        for step in steps:
            if isinstance(step, bytes):
                buffer.append(step)
                expected += step
            elif expected:
                taken = buffer.take(step)
                self.assertEqual(taken, expected[:step])
                expected = expected[step:]
            self.assertEqual(buffer.size, len(expected))

    def test_a_write_that_fits_is_not_copied(self) -> None:
        buffer = WriteBuffer()
        for data in (bytes(100), bytes(64)):
            buffer.append(data)
            self.assertIs(buffer.take(100), data)

    def test_cleared(self) -> None:
        buffer = WriteBuffer()
        buffer.append(b"abc")
        buffer.take(1)
        buffer.clear()
        buffer.append(b"xyz")
        self.assertEqual((buffer.size, buffer.take(9)), (3, b"xyz"))
