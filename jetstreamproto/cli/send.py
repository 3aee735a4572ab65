"""`jetstream send`: files and folders to a server."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.options import ConnectionOptions, location_options
from jetstreamproto.cli.pipe import STDIN
from jetstreamproto.cli.progress import ProgressBar
from jetstreamproto.cli.target import Location
from jetstreamproto.cli.transfers import Report, TransferOptions, transfer_options
from jetstreamproto.services.files.client import FileClient
from jetstreamproto.services.files.trees import Item, Tree, local_tree, transfer_all

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.services.files.asking import Transfer
    from jetstreamproto.services.files.trees import Outcome
    from jetstreamproto.session.session import Session

_STDIN = "-"


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@location_options("HOST:PORT[/DIR]")
@transfer_options
def send(options: ConnectionOptions, files: tuple[str, ...], **given: Any) -> int:
    """Send files and folders to the folder DIR that the server at HOST:PORT serves.

    A folder goes with all that is in it; symbolic links in it are left out. `-` is standard
    input, and the path after HOST:PORT then that of the file it becomes. When a transfer was broken
    off, the same command goes on where it was.
    """
    from jetstreamproto.cli.connection import run_session

    assert isinstance(options.target, Location)
    wanted = TransferOptions(**given)
    path = options.target.path.rstrip("/")
    if _STDIN in files and (len(files) > 1 or not path or wanted.dry_run):
        raise click.UsageError("send - HOST:PORT/PATH sends standard input alone, as PATH")
    report = Report(wanted, "sent")

    async def work(reactor: ReactorBase, session: Session) -> int:
        client, start = FileClient(session), reactor.seconds()
        outcome = await _send_all(client, files, path, wanted, report)
        return report.finish(outcome, reactor.seconds() - start)

    return run_session(dataclasses.replace(options, bulk=True), work)


async def _send_all(
    client: FileClient, files: tuple[str, ...], path: str, wanted: TransferOptions, report: Report
) -> Outcome:
    if files == (_STDIN,):
        tree = Tree([Item(None, path, None)])
    else:
        tree = await client.in_worker(lambda: local_tree(map(Path, files), path))
    report.left_out(tree.left_out)
    shown = not (wanted.no_progress or wanted.quiet)
    with ProgressBar(tree.size, shown=shown) as bar:
        if not wanted.dry_run:
            for folder in tree.folders:
                await client.make_folder(folder)
        return await transfer_all(
            tree.files, lambda item: _send_one(client, item, wanted, bar), in_turn=wanted.limit > 0
        )


async def _send_one(
    client: FileClient, item: Item, wanted: TransferOptions, bar: ProgressBar
) -> Transfer:
    bar.name(item.there)
    policy = wanted.policy
    if item.here is None:
        return await client.send_stream(
            STDIN, item.there, overwrite=policy, limit=wanted.limit, progress=bar.advance
        )
    return await client.send(
        item.here,
        item.there,
        overwrite=policy,
        dry_run=wanted.dry_run,
        limit=wanted.limit,
        progress=bar.advance,
    )
