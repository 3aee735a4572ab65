"""What `send` and `get` have in common: their options, and what they say in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jetstreamproto.cli.failure import clean, describe
from jetstreamproto.cli.options import json_option
from jetstreamproto.cli.output import note, show, show_object
from jetstreamproto.cli.quantity import amount_option
from jetstreamproto.errors import FileError

if TYPE_CHECKING:
    from jetstreamproto.services.files.asking import Transfer
    from jetstreamproto.services.files.model import Overwrite
    from jetstreamproto.services.files.trees import Outcome

T = TypeVar("T")

_POLICIES = ("always", "newer", "never")


@contextmanager
def about(path: str) -> Iterator[None]:
    """Names the path in the errors about it."""
    try:
        yield
    except FileError as error:
        raise FileError(error.code, f"{path}: {error}" if path else str(error)) from error


@dataclass(frozen=True)
class TransferOptions:
    """What the options say about a transfer. `limit` is in bytes a second, 0 for none."""

    overwrite: str = "always"
    dry_run: bool = False
    limit: int = 0
    no_progress: bool = False
    quiet: bool = False
    as_json: bool = False

    @property
    def policy(self) -> Overwrite:
        """What to do about files that are there."""
        from jetstreamproto.services.files.model import Overwrite

        return Overwrite[self.overwrite.upper()]


def transfer_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command these options, as keywords to make `TransferOptions` of."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def _limit(context: click.Context, parameter: click.Parameter, text: str | None) -> int:
    return amount_option(context, parameter, text.removesuffix("/s") if text else None) or 0


_OPTIONS: tuple[Callable[[Callable[..., Any]], Callable[..., Any]], ...] = (
    click.option(
        "--overwrite",
        type=click.Choice(_POLICIES),
        default=_POLICIES[0],
        show_default=True,
        help="Replace files that differ: always, if what comes is newer, or never (that fails)."
        " Files of the same size and time are left alone in any case.",
    ),
    click.option("-n", "--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    click.option(
        "--limit", callback=_limit, metavar="RATE", help="At most so much a second, as in 500KB/s."
    ),
    click.option("--no-progress", is_flag=True, help="No progress bar, on a terminal either."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but what has failed."),
    json_option,
)


class Report:
    """What has been done, for a person or as one object. `verb` is `sent` or `received`."""

    def __init__(self, options: TransferOptions, verb: str) -> None:
        self._options = options
        self._verb = verb

    def left_out(self, sentences: list[str]) -> None:
        """Tell what is not part of it."""
        if not self._options.quiet:
            for sentence in sentences:
                note(f"left out: {clean(sentence)}")

    def finish(self, outcome: Outcome, seconds: float) -> int:
        """Tell all, and return the exit status; the error of a single file is raised instead."""
        if len(outcome.failed) == 1 and not outcome.done:
            path, error = outcome.failed[0]
            with about(path):
                raise error
        failures = [(path, describe(error)) for path, error in outcome.failed]
        for path, failure in failures:
            note(f"jetstream: {clean(path)}: {failure.message}")
        if not self._options.quiet:
            for transfer in outcome.done:
                if transfer.other:
                    note(f"{clean(transfer.path)}: {_other(transfer)}")
        if self._options.as_json:
            errors = [
                {"path": path, "kind": failure.kind, "message": failure.message}
                for path, failure in failures
            ]
            show_object(self._object(outcome, seconds) | {"errors": errors})
        elif self._options.dry_run:
            for transfer in outcome.done:
                show(f"{self._state(transfer):6} {clean(transfer.path)}")
        elif not self._options.quiet:
            note(self._line(outcome, seconds))
        return failures[0][1].status if failures else 0

    def _state(self, transfer: Transfer) -> str:
        from jetstreamproto.services.files.model import Verdict

        if transfer.verdict is not Verdict.SEND:
            return transfer.verdict.name.lower()
        return "send" if self._options.dry_run else self._verb

    def _object(self, outcome: Outcome, seconds: float) -> dict[str, Any]:
        moved = sum(transfer.sent for transfer in outcome.done)
        return {
            "files": [
                {
                    "path": transfer.path,
                    "state": self._state(transfer),
                    "bytes": transfer.size,
                    "moved": transfer.sent,
                    "other_version": transfer.other,
                    "blake3": transfer.digest or None,
                }
                for transfer in outcome.done
            ],
            "bytes": sum(transfer.size for transfer in outcome.done),
            "moved": moved,
            "seconds": round(seconds, 6),
            "MB_per_s": round(moved / seconds / 1e6, 1) if seconds else 0.0,
            "dry_run": self._options.dry_run,
        }

    def _line(self, outcome: Outcome, seconds: float) -> str:
        moved = sum(transfer.sent for transfer in outcome.done)
        there = sum(t.size - t.sent for t in outcome.done if t.digest)
        count = sum(1 for transfer in outcome.done if transfer.digest)
        rate = moved / seconds / 1e6 if seconds else 0.0
        parts = [f"{self._verb} {count} file(s), {moved} bytes in {seconds:.1f} s, {rate:.1f} MB/s"]
        if there:
            parts.append(f"{there} bytes were there from before")
        if len(outcome.done) > count:
            parts.append(f"{len(outcome.done) - count} file(s) left as they were")
        return "; ".join(parts)


def _other(transfer: Transfer) -> str:
    return (
        "the unfinished .part file was of another version (or damaged): it starts over, and"
        f" {transfer.size - transfer.sent} bytes of it were of use"
    )
