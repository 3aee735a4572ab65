"""How far a transfer is, on standard error if that is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from jetstreamproto.cli.failure import clean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressBar:
    """A bar with the rate and the time left while the `with` block runs, unless it is not `shown`.

    `total` is in bytes, None if it is not known.
    """

    def __init__(self, total: int | None, *, shown: bool) -> None:
        self._total = total
        self._shown = shown and sys.stderr is not None and sys.stderr.isatty()
        self._bar: Progress | None = None
        self._task: TaskID

    def __enter__(self) -> ProgressBar:
        if self._shown:
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total)

    def name(self, name: str) -> None:
        """What is being transferred."""
        if self._bar is not None:
            self._bar.update(self._task, description=clean(name)[-40:])

    def advance(self, size: int) -> None:
        """So many bytes are done."""
        if self._bar is not None:
            self._bar.advance(self._task, size)
