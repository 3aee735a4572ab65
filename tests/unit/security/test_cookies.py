"""Tests for jetstreamproto.security.cookies."""

from __future__ import annotations

import random
from unittest import TestCase, mock

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jetstreamproto.security import cookies
from jetstreamproto.security.cookies import KEY_PERIOD, LIFETIME, TOKEN_SIZE, CookieJar

untimed = settings(deadline=None, derandomize=True, database=None)

ADDRESS = "192.0.2.1:4433"
CLIENT, SERVER = 0x1122334455667788, 0x99AABBCCDDEEFF00
NOW = 1_700_000_000.0

ids = st.integers(0, (1 << 64) - 1)
addresses = st.one_of(st.text(st.characters(codec="ascii"), max_size=60), st.binary(max_size=60))


def jar(seed: int = 1, **options: float) -> CookieJar:
    return CookieJar(random.Random(seed).randbytes, **options)  # type: ignore[arg-type]


class CookieTests(TestCase):
    def setUp(self) -> None:
        self.jar = jar()
        self.token = self.jar.bake(NOW, ADDRESS, CLIENT, SERVER)

    def check(self, now: float, token: bytes | None = None) -> int | None:
        return self.jar.check(now, token or self.token, ADDRESS, CLIENT)

    def test_a_token_brings_the_server_id_back(self) -> None:
        self.assertEqual(self.check(NOW), SERVER)
        self.assertEqual(self.check(NOW + LIFETIME), SERVER, "checking does not use it up")

    def test_it_is_small_and_shows_nothing(self) -> None:
        self.assertEqual(len(self.token), TOKEN_SIZE)
        self.assertEqual(TOKEN_SIZE, 31)
        for secret in (SERVER, CLIENT):
            self.assertNotIn(secret.to_bytes(8, "big"), self.token)

    def test_no_two_are_the_same(self) -> None:
        tokens = {self.jar.bake(NOW, ADDRESS, CLIENT, SERVER) for _ in range(1000)}
        self.assertEqual(len(tokens | {self.token}), 1001)
        nonces = {token[:5] for token in tokens}
        self.assertEqual(len(nonces), 1000)

    def test_it_is_of_no_use_elsewhere(self) -> None:
        for address in ("192.0.2.1:4434", "192.0.2.2:4433", "", ADDRESS + "0", b"\xff"):
            self.assertIsNone(self.jar.check(NOW, self.token, address, CLIENT), address)
        for client in (0, CLIENT ^ 1, SERVER):
            self.assertIsNone(self.jar.check(NOW, self.token, ADDRESS, client))

    def test_an_address_may_be_bytes(self) -> None:
        self.assertEqual(self.jar.check(NOW, self.token, ADDRESS.encode(), CLIENT), SERVER)

    def test_it_expires(self) -> None:
        self.assertEqual(self.check(NOW + LIFETIME - 0.001), SERVER)
        self.assertIsNone(self.check(NOW + LIFETIME + 0.001))
        self.assertIsNone(self.check(NOW + 1e9))

    def test_it_lives_for_thirty_seconds_at_most(self) -> None:
        for lifetime in (0.0, -1.0, 30.1, float("nan")):
            with self.assertRaisesRegex(ValueError, "30 seconds"):
                jar(lifetime=lifetime)

    def test_another_servers_token(self) -> None:
        self.assertIsNone(jar(2).check(NOW, self.token, ADDRESS, CLIENT), "it has no key yet")
        other = jar(2)
        other.bake(NOW, ADDRESS, CLIENT, SERVER)
        self.assertIsNone(other.check(NOW, self.token, ADDRESS, CLIENT))

    def test_a_token_of_any_wrong_size(self) -> None:
        for size in range(TOKEN_SIZE):
            self.assertIsNone(self.jar.check(NOW, self.token[:size], ADDRESS, CLIENT))
        self.assertIsNone(self.jar.check(NOW, self.token + b"\0", ADDRESS, CLIENT))


class RotationTests(TestCase):
    def test_a_token_survives_one_change_of_keys(self) -> None:
        kept = jar(lifetime=30.0)
        kept.bake(NOW, ADDRESS, CLIENT, 1)
        token = kept.bake(NOW + KEY_PERIOD - 0.5, ADDRESS, CLIENT, SERVER)
        new = kept.bake(NOW + KEY_PERIOD, ADDRESS, CLIENT, 2)
        self.assertNotEqual(token[0], new[0], "another key")
        self.assertEqual(kept.check(NOW + 2 * KEY_PERIOD - 0.501, token, ADDRESS, CLIENT), SERVER)
        self.assertIsNone(kept.check(NOW + 2 * KEY_PERIOD - 0.499, token, ADDRESS, CLIENT))

    def test_old_keys_are_forgotten_even_when_nothing_is_baked(self) -> None:
        kept = jar(lifetime=30.0)
        token = kept.bake(NOW, ADDRESS, CLIENT, SERVER)
        kept.check(NOW + KEY_PERIOD + 1, token, ADDRESS, CLIENT)
        self.assertIsNotNone(kept._previous)
        kept.check(NOW + 2 * KEY_PERIOD, token, ADDRESS, CLIENT)
        self.assertIsNone(kept._previous)
        self.assertIsNone(kept._current)

    def test_each_key_is_fresh(self) -> None:
        sizes: list[int] = []

        def random_bytes(size: int) -> bytes:
            sizes.append(size)
            return bytes(size)

        kept = CookieJar(random_bytes)
        for second in range(100):
            kept.bake(NOW + second, ADDRESS, CLIENT, SERVER)
        self.assertEqual(sizes, [32] * 4)

    def test_generations_wrap(self) -> None:
        kept = jar()
        for period in range(600):
            now = NOW + period * KEY_PERIOD
            token = kept.bake(now, ADDRESS, CLIENT, period)
            self.assertEqual(kept.check(now + 1, token, ADDRESS, CLIENT), period)

    def test_a_key_without_nonces_left_is_replaced(self) -> None:
        with mock.patch.object(cookies, "_MAX_NONCES", 3):
            kept = jar()
            tokens = [kept.bake(NOW, ADDRESS, CLIENT, server) for server in range(5)]
        self.assertEqual(len({token[0] for token in tokens}), 2)
        self.assertEqual(len({token[:5] for token in tokens}), 5)
        for server, token in enumerate(tokens):
            self.assertEqual(kept.check(NOW, token, ADDRESS, CLIENT), server)

    def test_a_clock_that_goes_back_voids_all_tokens(self) -> None:
        kept = jar()
        token = kept.bake(NOW, ADDRESS, CLIENT, SERVER)
        for now in (NOW - 3600, NOW - 3599, NOW):
            self.assertIsNone(kept.check(now, token, ADDRESS, CLIENT))
        token = kept.bake(NOW - 1800, ADDRESS, CLIENT, SERVER)
        self.assertEqual(kept.check(NOW - 1799, token, ADDRESS, CLIENT), SERVER)

    def test_a_clock_that_is_a_little_behind_stands_still(self) -> None:
        kept = jar()
        token = kept.bake(NOW, ADDRESS, CLIENT, SERVER)
        self.assertEqual(kept.check(NOW - 0.5, token, ADDRESS, CLIENT), SERVER)
        again = kept.bake(NOW - 0.5, ADDRESS, CLIENT, SERVER)
        self.assertIsNone(kept.check(NOW + LIFETIME + 0.01, again, ADDRESS, CLIENT))


class SpentTests(TestCase):
    def test_a_token_can_be_redeemed_once(self) -> None:
        kept = jar()
        token = kept.bake(NOW, ADDRESS, CLIENT, SERVER)
        self.assertEqual(kept.redeem(NOW, token, ADDRESS, CLIENT), SERVER)
        self.assertIsNone(kept.redeem(NOW + 1, token, ADDRESS, CLIENT))
        self.assertEqual(kept.check(NOW, token, ADDRESS, CLIENT), SERVER)

    def test_what_is_no_good_spends_nothing(self) -> None:
        kept = jar()
        token = kept.bake(NOW, ADDRESS, CLIENT, SERVER)
        self.assertIsNone(kept.redeem(NOW, token, "elsewhere", CLIENT))
        self.assertIsNone(kept.redeem(NOW, bytes(TOKEN_SIZE), ADDRESS, CLIENT))
        self.assertEqual(kept.redeem(NOW, token, ADDRESS, CLIENT), SERVER)

    def test_it_stays_spent_when_the_keys_change(self) -> None:
        kept = jar(lifetime=30.0)
        kept.bake(NOW, ADDRESS, CLIENT, 1)
        token = kept.bake(NOW + 29, ADDRESS, CLIENT, SERVER)
        self.assertEqual(kept.redeem(NOW + 29, token, ADDRESS, CLIENT), SERVER)
        for now in (30, 45, 59, 61):
            kept.bake(NOW + now, ADDRESS, CLIENT, 2)
            self.assertIsNone(kept.redeem(NOW + now, token, ADDRESS, CLIENT))

    def test_the_memory_is_bounded(self) -> None:
        kept = jar(max_spent=10)
        tokens = [kept.bake(NOW, ADDRESS, CLIENT, server) for server in range(30)]
        for server, token in enumerate(tokens):
            self.assertEqual(kept.redeem(NOW, token, ADDRESS, CLIENT), server)
        assert kept._current is not None
        self.assertEqual(len(kept._current.spent), 10)
        again = [kept.redeem(NOW, token, ADDRESS, CLIENT) for token in reversed(tokens)]
        self.assertEqual(again[:10], [None] * 10)

    def test_nothing_is_left_after_two_periods(self) -> None:
        kept = jar()
        token = kept.bake(NOW, ADDRESS, CLIENT, SERVER)
        kept.redeem(NOW, token, ADDRESS, CLIENT)
        kept.check(NOW + 2 * KEY_PERIOD, token, ADDRESS, CLIENT)
        self.assertIsNone(kept._current)
        self.assertIsNone(kept._previous)


class PropertyTests(TestCase):
    @untimed
    @given(addresses, ids, ids, st.floats(0, LIFETIME - 0.002))
    def test_any_token_in_its_lifetime(
        self, address: bytes | str, client: int, server: int, age: float
    ) -> None:
        kept = jar()
        token = kept.bake(NOW, address, client, server)
        self.assertEqual(kept.check(NOW + age, token, address, client), server)

    @untimed
    @given(st.data())
    def test_a_mutated_token(self, data: st.DataObject) -> None:
        kept = jar()
        token = kept.bake(NOW, ADDRESS, CLIENT, SERVER)
        mutated = bytearray(token)
        for _ in range(data.draw(st.integers(1, 4))):
            mutated[data.draw(st.integers(0, TOKEN_SIZE - 1))] ^= data.draw(st.integers(1, 255))
        assume(mutated != token)
        self.assertIsNone(kept.check(NOW, bytes(mutated), ADDRESS, CLIENT))
        self.assertIsNone(kept.redeem(NOW, bytes(mutated), ADDRESS, CLIENT))

    @untimed
    @given(st.binary(max_size=80), st.floats(-100, 100))
    def test_any_bytes(self, token: bytes, later: float) -> None:
        kept = jar()
        kept.bake(NOW, ADDRESS, CLIENT, SERVER)
        self.assertIsNone(kept.redeem(NOW + later, token, ADDRESS, CLIENT))

    @untimed
    @given(st.lists(st.tuples(st.floats(-40, 40), st.booleans()), max_size=40))
    def test_no_token_outlives_its_time_whatever_the_clock_does(
        self, moves: list[tuple[float, bool]]
    ) -> None:
        """Real time passes by the size of each move; the clock also goes back."""
        kept, now, real = jar(lifetime=30.0), NOW, 0.0
        baked: list[tuple[float, bytes]] = []
        for move, bake in moves:
            now, real = now + move, real + abs(move)
            for when, token in baked:
                if kept.check(now, token, ADDRESS, CLIENT) is not None:
                    self.assertLessEqual(real - when, 30.0 + 2 * len(moves))
            if bake:
                baked.append((real, kept.bake(now, ADDRESS, CLIENT, SERVER)))
