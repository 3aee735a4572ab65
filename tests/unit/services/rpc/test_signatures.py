from __future__ import annotations

import unittest
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from twisted.internet.defer import Deferred

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.rpc.context import RpcContext
from jetstreamproto.services.rpc.signatures import rpc_method, rpc_service, signatures


@dataclass
class Point:
    x: int
    y: int = 0


@rpc_service("test.Shapes")
class Shapes:
    @rpc_method(idempotent=True)
    def move(self, point: Point, by: Annotated[int, msgspec.Meta(ge=0)] = 1) -> Point:
        """Move it."""
        return Point(point.x + by, point.y)

    @rpc_method
    async def draw(self, context: RpcContext, points: AsyncIterator[Point]) -> int:
        return len([point async for point in points])

    @rpc_method
    async def corners(self, sides: int) -> AsyncGenerator[Point, None]:
        for side in range(sides):
            yield Point(side)

    @rpc_method
    async def echo(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item

    @rpc_method
    def later(self, defaults: list[int] = [1]) -> Deferred[str]:  # noqa: B006
        return Deferred()

    @rpc_method(raw=True)
    def blob(self, data: bytes) -> bytes:
        return data

    def hidden(self) -> None: ...


class SignatureTests(unittest.TestCase):
    def setUp(self) -> None:
        self.found = signatures(Shapes)

    def test_what_is_exposed(self) -> None:
        kinds = {name: signature.kind for name, signature in self.found.items()}
        self.assertEqual(
            kinds,
            {
                "move": "unary",
                "draw": "client stream",
                "corners": "server stream",
                "echo": "both ways",
                "later": "unary",
                "blob": "unary",
            },
        )
        self.assertEqual(self.found["move"].name, "test.Shapes#move")
        self.assertTrue(self.found["move"].idempotent)
        self.assertFalse(self.found["draw"].idempotent)
        self.assertEqual(self.found["draw"].parameters, ())
        self.assertEqual(
            (self.found["draw"].context, self.found["draw"].items), ("context", "points")
        )
        self.assertEqual(self.found["later"].result, str)

    def test_arguments_are_checked(self) -> None:
        move = self.found["move"]
        for read, good in (
            (move.by_position, [[{"x": 1}], [{"x": 1, "y": 2}, 5]]),
            (move.by_name, [{"point": {"x": 1}}, {"point": {"x": 1, "y": 2}, "by": 5}]),
        ):
            self.assertEqual(read(msgspec.msgpack.encode(good[0])).by, 1)
            self.assertEqual(read(msgspec.msgpack.encode(good[1])).point, Point(1, 2))
        for bad in ([], [1], [{"x": "1"}], [{"x": 1}, -1], [{"x": 1}, 1, 1], {"point": {"x": 1}}):
            with self.subTest(bad), self.assertRaises(msgspec.ValidationError):
                move.by_position(msgspec.msgpack.encode(bad))
        for named in ({}, {"point": {"x": 1}, "up": 1}, [{"x": 1}]):
            with self.subTest(named), self.assertRaises(msgspec.ValidationError):
                move.by_name(msgspec.msgpack.encode(named))

    def test_defaults_are_not_shared(self) -> None:
        read = self.found["later"].by_position
        read(b"\x90").defaults.append(2)
        self.assertEqual(read(b"\x90").defaults, [1])

    def test_describing(self) -> None:
        described = self.found["move"].describe()
        self.assertEqual((described["doc"], described["idempotent"]), ("Move it.", True))
        schema = described["arguments"]["$defs"]["move"]
        self.assertEqual(schema["required"], ["point"])
        self.assertEqual(
            schema["properties"]["by"], {"type": "integer", "minimum": 0, "default": 1}
        )
        self.assertNotIn("arguments", self.found["blob"].describe())
        self.assertIn("items_in", self.found["echo"].describe())


class RefusalTests(unittest.TestCase):
    def refuse(self, *words: str, **methods: Any) -> None:
        with self.assertRaises(ConfigurationError) as raised:
            signatures(rpc_service("test.Bad")(type("Bad", (), methods)))
        for word in words:
            self.assertIn(word, str(raised.exception))

    def test_what_cannot_be_called_from_afar(self) -> None:
        @rpc_method
        def many(self: Any, *arguments: int) -> None: ...

        @rpc_method
        def strange(self: Any, lock: Deferred) -> None: ...  # type: ignore[type-arg]

        @rpc_method(raw=True)
        def two(self: Any, one: bytes, other: bytes) -> bytes:
            return one

        self.refuse("test.Bad#many", "*arguments", many=many)
        self.refuse("test.Bad#strange", strange=strange)
        self.refuse("test.Bad#two", "raw", two=two)
        self.refuse("no method")

    def test_names(self) -> None:
        for name in ("Calculator", "demo.Calc#add", "", "de mo.Calc"):
            with self.subTest(name), self.assertRaises(ConfigurationError):
                rpc_service(name)
        with self.assertRaises(ConfigurationError):
            signatures(object())
