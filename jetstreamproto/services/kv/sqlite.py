"""The key-value store in SQLite: writes in groups, each of which is one commit.

Statements take microseconds and a commit waits for the disk, so statements run where the reactor
does, and only the commit is handed to a thread. What is submitted meanwhile is the next group. In
that way the two threads never fight for Python's lock in the middle of a group, and 64 writers
wait for the disk once. Several processes may share the file; each then sees what the others do.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.kv.announcing import Touched
from jetstreamproto.services.kv.model import Head, Refusal, Status, Step
from jetstreamproto.services.kv.store import Changes, Outcome, Position
from jetstreamproto.services.kv.tables import LAYOUT, Tables
from jetstreamproto.services.kv.transaction import Transaction, begin, roll_back, set_patience

_log = Logger(namespace="jetstream.kv")

P = ParamSpec("P")
T = TypeVar("T")

InThread = Callable[[Callable[[], None]], Deferred[None]]
"""Runs a function in a thread; what it returns fires when that is done, or fails as it did."""

PAGE = 4096
"""Bytes of a page of the file."""

_MOST_WAITING = 64 << 20  # bytes of values that wait to be written
_STEP_COST = 256  # bytes that a step counts beside its values
_GROUP = 1000  # steps, after which a group is committed
_SWEEP = 500  # keys that are taken away at a time
_SWEEP_INTERVAL = 0.5  # seconds
_POLL_INTERVAL = 0.1  # seconds between looks for what other processes have done
_PATIENCE = 5.0  # seconds to wait for another process's commit
_PRUNE_EVERY = 120  # sweeps


class _Job(NamedTuple):
    """What is to be done in a transaction: so many steps, which keep so many bytes."""

    run: Callable[[Transaction], Outcome]
    steps: int
    cost: int
    done: Deferred[Outcome]


class SqliteStore:
    """A `Store` in one file of at most `limit` bytes. `now` is the time in Unix milliseconds.

    `committed` is told what has been changed by this process, once it is on disk.
    Raises `ConfigurationError` when the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        clock: IReactorTime,
        now: Callable[[], int],
        in_thread: InThread,
        limit: int = 1 << 40,
        committed: Callable[[Sequence[Touched]], None] | None = None,
    ) -> None:
        self._clock = clock
        self._committed = committed
        self._now = now
        self._in_thread = in_thread
        self._path = path
        self._writer = _open(path, limit)
        with suppress(sqlite3.Error):  # as a full store has no room for it
            self._writer.lengthen_log()
        set_patience(self._writer.connection, 0)  # the reactor waits for no other process
        self._reader = _open(path, limit)
        self.revision, self.floor = self._reader.counters()
        self._version = self._reader.version()
        self._queue: deque[_Job] = deque()
        self._waiting = 0  # bytes
        self._alone = 0  # jobs that a group of theirs failed with, each to be tried by itself
        self._working = False
        self._sweeps = 0
        self._subscribers: set[Callable[[], None]] = set()
        self._closing: Deferred[None] | None = None
        self._sweep_timer: IDelayedCall = clock.callLater(_SWEEP_INTERVAL, self._sweep)
        self._poll_timer: IDelayedCall = clock.callLater(_POLL_INTERVAL, self._poll)

    def close(self) -> Deferred[None]:
        """Stop, once what has been submitted is on disk. Call it once."""
        self._closing = Deferred()
        self._sweep_timer.cancel()
        self._poll_timer.cancel()
        if not self._working:
            self._finish_closing(self._closing)
        return self._closing

    def _finish_closing(self, closing: Deferred[None]) -> None:
        self._reader.connection.close()
        self._writer.connection.close()
        closing.callback(None)

    # --- reading -----------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        connection = self._reader.connection
        connection.execute("BEGIN")
        try:
            yield
        finally:
            roll_back(connection)

    def head(self, bucket: str, key: str) -> Head | None:
        head = _tried(self._reader.head, bucket, key)
        return head if head is not None and head.alive(self._now()) else None

    def fields(
        self, bucket: str, key: str, names: Sequence[str]
    ) -> tuple[Head, list[bytes | None]] | None:
        try:
            found = self._reader.fields(bucket, key, names)
        except sqlite3.Error as error:
            raise _refusal(error) from error
        return found if found is not None and found[0].alive(self._now()) else None

    def all_fields(self, head: Head) -> dict[str, bytes]:
        return _tried(self._reader.all_fields, head)

    def scan(
        self, bucket: str, prefix: str, after: str, limit: int
    ) -> tuple[Sequence[tuple[str, Head]], bool]:
        found = _tried(self._reader.scan, bucket, prefix, after, limit + 1, self._now())
        return found[:limit], len(found) > limit

    def buckets(self, after: str, limit: int) -> tuple[Sequence[str], bool]:
        found = _tried(self._reader.buckets, after, limit + 1)
        return found[:limit], len(found) > limit

    def changes(self, bucket: str, prefix: str, after: Position) -> Changes:
        return _tried(self._reader.changes, bucket, prefix, after, self.revision, self._now())

    def subscribe(self, changed: Callable[[], None]) -> Callable[[], None]:
        self._subscribers.add(changed)
        return lambda: self._subscribers.discard(changed)

    # --- writing -----------------------------------------------------------------------

    def submit(self, bucket: str, steps: Sequence[Step]) -> Deferred[Outcome]:
        cost = _STEP_COST * len(steps)
        for step in steps:
            cost += sum(map(len, step.values))
        return self._add(lambda transaction: transaction.batch(bucket, steps), len(steps), cost)

    def _add(
        self, run: Callable[[Transaction], Outcome], steps: int, cost: int
    ) -> Deferred[Outcome]:
        done: Deferred[Outcome] = Deferred()
        if self._closing is not None:
            done.errback(Refusal(Status.FAILED, "the store is closing"))
        elif self._waiting + cost > _MOST_WAITING:
            done.errback(Refusal(Status.BUSY, "too much is waiting to be written"))
        else:
            self._waiting += cost
            self._queue.append(_Job(run, steps, cost, done))
            if not self._working:
                self._working = True
                # What else comes in this turn of the reactor is for the same group.
                self._clock.callLater(0, lambda: Deferred.fromCoroutine(self._work()))
        return done

    async def _work(self) -> None:
        """Do what is waiting, group after group."""
        while self._queue:
            group = self._next_group()
            outcomes = await self._commit(group)
            if outcomes is None:
                self._alone = len(group)
                self._queue.extendleft(reversed(group))
                continue
            for job, outcome in zip(group, outcomes, strict=True):
                self._waiting -= job.cost
                if isinstance(outcome, Refusal):
                    job.done.errback(outcome)
                else:
                    job.done.callback(outcome)
        self._working = False
        if self._closing is not None:
            self._finish_closing(self._closing)

    def _next_group(self) -> list[_Job]:
        group = [self._queue.popleft()]
        if self._alone:
            self._alone -= 1
            return group
        steps = group[0].steps
        while self._queue and steps < _GROUP:
            group.append(self._queue.popleft())
            steps += group[-1].steps
        return group

    async def _commit(self, group: Sequence[_Job]) -> Sequence[Outcome | Refusal] | None:
        """What came of each job when all is on disk; None if the jobs have to be tried singly."""
        connection = self._writer.connection
        try:
            await self._begin(connection)
            transaction = Transaction(self._writer, self._now())
            outcomes = [_attempt(job, transaction) for job in group]
            if transaction.changed:
                transaction.save_counters()
                await self._in_thread(connection.commit)
            else:
                connection.rollback()
        except Exception as error:  # of SQLite, unless there is a bug: nothing may be half done
            roll_back(connection)
            if len(group) > 1:
                return None
            return [_refusal(error)]
        self._advance(*transaction.counters)
        self._tell(transaction.touched)
        return outcomes

    def _tell(self, touched: Sequence[Touched]) -> None:
        if self._committed is not None and touched:
            try:
                self._committed(touched)
            except Exception:  # what is on disk is to be acknowledged, whoever fails to hear of it
                _log.failure("changes of keys could not be told")

    async def _begin(self, connection: sqlite3.Connection) -> None:
        try:
            begin(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            set_patience(connection, _PATIENCE)
            try:
                await self._in_thread(lambda: begin(connection))
            finally:
                set_patience(connection, 0)

    # --- from time to time -------------------------------------------------------------

    def refresh(self) -> None:
        try:
            self._version = self._reader.version()
            revision, floor = self._reader.counters()
        except sqlite3.Error as error:
            _log.error("{path}: {error}", path=str(self._path), error=str(error))
            return
        self._advance(revision, floor)

    def _advance(self, revision: int, floor: int) -> None:
        """Tell the subscribers of what has been committed, by whatever process."""
        self.floor = floor
        if revision != self.revision:
            self.revision = revision
            for changed in tuple(self._subscribers):
                changed()

    def _poll(self) -> None:
        self._poll_timer = self._clock.callLater(_POLL_INTERVAL, self._poll)
        try:
            other = self._reader.version() != self._version
        except sqlite3.Error:
            other = True
        if other:
            self.refresh()

    def _sweep(self) -> None:
        """Take away what has expired, a part at a time, and at times the oldest deletions."""
        self._sweep_timer = self._clock.callLater(_SWEEP_INTERVAL, self._sweep)
        try:
            expired = self._reader.expired(self._now(), 1)
        except sqlite3.Error:
            return
        if expired:
            self._upkeep(lambda transaction: transaction.expire(_SWEEP), _SWEEP)
        if self._sweeps % _PRUNE_EVERY == 0:
            self._upkeep(Transaction.prune, 1)
        self._sweeps += 1

    def _upkeep(self, run: Callable[[Transaction], Outcome], most: int) -> None:
        """Do it, and again for as long as there is as much to do as is done at a time."""

        def again(outcome: Outcome) -> None:
            if outcome.results[0] >= most and self._closing is None:
                self._upkeep(run, most)

        self._add(run, most, 0).addCallbacks(
            again, lambda failure: _log.error("{reason}", reason=failure.getErrorMessage())
        )


def _open(path: Path, limit: int) -> Tables:
    """A connection to the file, which is made if it is not there."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(0o600)
        connection = sqlite3.connect(
            path,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,  # but by one thread at a time
            cached_statements=256,
        )
        for pragma in (
            f"page_size = {PAGE}",
            "journal_mode = WAL",
            "synchronous = FULL",
            f"max_page_count = {max(64, limit // PAGE)}",
            f"journal_size_limit = {64 << 20}",
            "cache_size = -16384",
        ):
            connection.execute(f"PRAGMA {pragma}")
        tables = Tables(connection)
        begin(connection)
        layout = tables.layout()
        if layout == 0:
            tables.create()
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if layout not in (0, LAYOUT):
        connection.close()
        raise ConfigurationError(f"{path}: its tables have layout {layout}, not {LAYOUT}")
    return tables


def _attempt(job: _Job, transaction: Transaction) -> Outcome | Refusal:
    try:
        return job.run(transaction)
    except Refusal as refusal:
        return refusal


def _tried(read: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    try:
        return read(*arguments, **options)
    except sqlite3.Error as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> Refusal:
    """What an error of the database is to whoever asked; the log has all of it."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return Refusal(Status.FULL, "the store is full")
    if code == sqlite3.SQLITE_BUSY:
        return Refusal(Status.BUSY, "another process keeps the store locked")
    _log.failure("the key-value store failed")
    return Refusal(Status.FAILED, "the store has failed; the server's log says why")
