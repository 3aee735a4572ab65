"""A key-value server and clients of it in virtual time, with the store in a folder of the test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.services.kv.client import KeyBucket, KeyValueClient
from jetstreamproto.services.kv.model import KeyEntry
from jetstreamproto.services.kv.service import KeyValueOffer
from jetstreamproto.services.kv.watch import KeyWatch
from jetstreamproto.testing import SessionPair
from tests.doubles import IDENTITY, QuickClock

START = 1_700_000_000_000


class Disk:
    """What commits. While it is `slow` they wait for `finish`; `fail` is raised instead of one."""

    def __init__(self) -> None:
        self.slow = False
        self.commits = 0
        self.fail: Exception | None = None
        self._waiting: list[tuple[Deferred[None], Callable[[], None]]] = []

    def __call__(self, work: Callable[[], None]) -> Deferred[None]:
        self.commits += 1
        if self.fail is not None:
            error, self.fail = self.fail, None
            return maybeDeferred(self._raise, error)
        if not self.slow:
            return maybeDeferred(work)
        done: Deferred[None] = Deferred()
        self._waiting.append((done, work))
        return done

    def finish(self) -> None:
        """Let the commit that waits happen."""
        done, work = self._waiting.pop(0)
        work()
        done.callback(None)

    def _raise(self, error: Exception) -> None:
        raise error


class Rules:
    """Permissions by scope; what is not said is the default."""

    def __init__(self, **scopes: Sequence[str]) -> None:
        self.scopes = scopes

    def __call__(
        self, _session: object, service: str, scope: str, default: Sequence[str] = ()
    ) -> tuple[str, ...]:
        assert service == "kv"
        return tuple(self.scopes.get(scope, default))


class KeyValueCase(SynchronousTestCase):
    """A test with a folder, a clock and a disk."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.clock = QuickClock()
        self.disk = Disk()

    def now(self) -> int:
        """The time that the store sees: virtual."""
        return START + round(1000 * self.clock.seconds())

    def offer(self, rules: Any = None, **options: Any) -> KeyValueOffer:
        offer = KeyValueOffer(
            self.folder,
            rules or Rules(),
            now=self.now,
            in_thread=self.disk,
            **options,
        )
        offer.start(self.clock)
        self.addCleanup(offer.stop)
        return offer

    def pair(self, rules: Any = None, **options: Any) -> SessionPair:
        """A client's session with a server of key-value."""
        return SessionPair(
            self.offer(rules).services, identity=IDENTITY, clock=self.clock, **options
        )

    def connect(self, rules: Any = None, **options: Any) -> tuple[SessionPair, KeyBucket]:
        pair = self.pair(rules, **options)
        return pair, KeyValueClient(pair.client, clock=self.clock).bucket("b")


def run(pair: SessionPair, work: Coroutine[Deferred[Any], Any, Any]) -> Any:
    """What a coroutine comes to."""
    return pair.run(Deferred.fromCoroutine(work))


def take(pair: SessionPair, watch: KeyWatch, count: int) -> list[KeyEntry]:
    """The next entries of a watch."""

    async def entries() -> list[KeyEntry]:
        return [await watch.__anext__() for _ in range(count)]

    found: list[KeyEntry] = run(pair, entries())
    return found
