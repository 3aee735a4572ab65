"""A served folder and a client of it, for tests: everything that blocks is done at once."""

from __future__ import annotations

import random
import tempfile
import unittest
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred

from jetstreamproto.services.files.client import FileClient
from jetstreamproto.services.files.folder import Folder
from jetstreamproto.services.files.service import FileOffer
from jetstreamproto.session.session import Session
from jetstreamproto.testing.pair import SessionPair
from tests.doubles import IDENTITY, QuickClock

T = TypeVar("T")


def at_once(call: Callable[[], T]) -> Deferred[T]:
    """A worker without threads."""
    return maybeDeferred(call)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class PlaceCase(unittest.TestCase):
    """`root` is served, `local` is the client's."""

    writable = True

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name).resolve()
        self.root, self.local = self.home / "root", self.home / "local"
        self.root.mkdir()
        self.local.mkdir()
        self.allowed: dict[str, tuple[str, ...]] = {}
        """Patterns by scope, where they are not the default."""
        self.offer = FileOffer(self.root, self.writable, self._permissions)
        self.offer.desk.open(Folder(self.root), at_once)
        self.addCleanup(self.offer.stop)

    def _permissions(
        self, session: Session, service: str, scope: str, default: Sequence[str] = ()
    ) -> tuple[str, ...]:
        assert service == "files"
        return self.allowed.get(scope, tuple(default))

    def connect(self, **options: Any) -> Any:
        """Another connection to the server."""
        return SessionPair(self.offer.services, identity=IDENTITY, clock=QuickClock(), **options)

    def client(self, pair: Any) -> FileClient:
        return FileClient(pair.client, at_once)

    def make(self, name: str, content: bytes, folder: Path | None = None) -> Path:
        path = (folder or self.local) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path
