"""The code in Python alone is zfec's, share by share."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any
from unittest import TestCase, skipIf

from jetstreamproto.reliability.fec import galois

zfec: Any = None
with suppress(ImportError):
    import zfec


@skipIf(zfec is None, "zfec is not installed")
class SameCodeTests(TestCase):
    def test_every_share_is_the_same(self) -> None:
        for k in (1, 2, 3, 10, 32, 100, 254):
            blocks = tuple(Random(k).randbytes(5) for _ in range(k))
            shares = tuple(range(256))
            ours = galois.Encoder(k, 256).encode(blocks, shares)
            self.assertEqual(ours, zfec.Encoder(k, 256).encode(blocks, shares), k)

    def test_any_shares_give_the_blocks(self) -> None:
        random = Random(1)
        for _ in range(50):
            k = random.randint(1, 20)
            blocks = [random.randbytes(30) for _ in range(k)]
            everything = zfec.Encoder(k, 256).encode(tuple(blocks), tuple(range(256)))
            shares = list(range(k))
            for place in random.sample(shares, random.randint(0, k)):
                spare = random.randint(k, 255)
                if spare not in shares:
                    shares[place] = spare
            known = [everything[share] for share in shares]
            self.assertEqual(galois.Decoder(k, 256).decode(known, shares), blocks, shares)
