"""`jetstream get`: files and folders from a server."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.failure import StreamFailed
from jetstreamproto.cli.options import ConnectionOptions, location_options
from jetstreamproto.cli.output import stdout_failure
from jetstreamproto.cli.pipe import STDOUT
from jetstreamproto.cli.progress import ProgressBar
from jetstreamproto.cli.target import Location
from jetstreamproto.cli.transfers import Report, TransferOptions, about, transfer_options
from jetstreamproto.errors import FileError
from jetstreamproto.services.files.asking import Plan
from jetstreamproto.services.files.client import FileClient
from jetstreamproto.services.files.model import read_path
from jetstreamproto.services.files.trees import (
    Outcome,
    open_place,
    remote_tree,
    transfer_all,
    would_transfer,
)

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.services.files.asking import Transfer
    from jetstreamproto.services.files.trees import Item, Tree
    from jetstreamproto.session.session import Session

_STDOUT = "-"


@click.command()
@location_options("HOST:PORT/PATH")
@click.argument("destination", metavar="[DEST]", required=False, default=".")
@transfer_options
def get(options: ConnectionOptions, destination: str, **given: Any) -> int:
    """Get the file or folder PATH that the server at HOST:PORT serves.

    It keeps its name if DEST is a folder (by default the current one) or ends in `/`, otherwise it
    becomes DEST; `-` is standard output. A folder comes with all that is in it. When a transfer was
    broken off, the same command goes on where it was.
    """
    from jetstreamproto.cli.connection import run_session

    assert isinstance(options.target, Location)
    wanted = TransferOptions(**given)
    path = options.target.path.rstrip("/")
    if destination == _STDOUT and (not path or wanted.dry_run or wanted.as_json):
        raise click.UsageError("get HOST:PORT/PATH - takes one file, without --dry-run or --json")
    report = Report(wanted, "received")

    async def work(reactor: ReactorBase, session: Session) -> int:
        client, start = FileClient(session), reactor.seconds()
        outcome = await _get_all(client, path, destination, wanted, report)
        return report.finish(outcome, reactor.seconds() - start)

    return run_session(dataclasses.replace(options, bulk=True), work)


async def _get_all(
    client: FileClient, path: str, destination: str, wanted: TransferOptions, report: Report
) -> Outcome:
    with about(path):
        contents = await client.list(path, deep=True)
    tree = remote_tree(path, contents.entries)
    report.left_out(tree.left_out)
    if contents.unnamed:
        report.left_out([f"{contents.unnamed} files whose names cannot be told"])
    with ProgressBar(tree.size, shown=not (wanted.no_progress or wanted.quiet)) as bar:
        if destination != _STDOUT:
            return await _get_tree(client, tree, _place(destination, tree), wanted, bar)
        if tree.single is None:
            raise StreamFailed(f"{path} is not a file, and standard output can take only one")
        return Outcome([await _get_stream(client, tree.single, wanted, bar)])


def _place(destination: str, tree: Tree) -> tuple[Path, str | None]:
    """The folder that everything comes into, and a single file's name there."""
    place, name = Path(destination), tree.name
    if name and (destination.endswith("/") or place.is_dir()):
        place = place / name
    return (place, None) if tree.single is None else (place.parent, place.name)


async def _get_tree(
    client: FileClient,
    tree: Tree,
    place: tuple[Path, str | None],
    wanted: TransferOptions,
    bar: ProgressBar,
) -> Outcome:
    root, name = place
    folder = await client.in_worker(lambda: open_place(root, tree, wanted.dry_run))
    if folder is None:
        return would_transfer(tree)

    async def get_one(item: Item) -> Transfer:
        bar.name(item.there)
        parts = read_path(name or str(item.here))
        plan = Plan(item.there, wanted.policy, wanted.dry_run, wanted.limit, bar.advance)
        return await client.get_into(folder, parts, plan)

    try:
        return await transfer_all(tree.files, get_one, in_turn=wanted.limit > 0)
    finally:
        folder.close()


async def _get_stream(
    client: FileClient, item: Item, wanted: TransferOptions, bar: ProgressBar
) -> Transfer:
    try:
        return await client.get_stream(item.there, STDOUT, limit=wanted.limit, progress=bar.advance)
    except FileError as error:
        if isinstance(error.__cause__, OSError):  # ours, since the server's have no cause
            raise stdout_failure(error.__cause__) from error
        raise
