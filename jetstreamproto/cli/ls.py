"""`jetstream ls`: what is in a folder of a server."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from jetstreamproto.cli.failure import clean
from jetstreamproto.cli.options import ConnectionOptions, json_option, location_options
from jetstreamproto.cli.output import note, show, show_object
from jetstreamproto.cli.target import Location
from jetstreamproto.cli.transfers import about

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.services.files.asking import Contents
    from jetstreamproto.services.files.messages import Entry
    from jetstreamproto.session.session import Session


@click.command()
@location_options("HOST:PORT[/DIR]")
@click.option("-R", "--recursive", is_flag=True, help="What is in the folders, too.")
@json_option
def ls(options: ConnectionOptions, recursive: bool, as_json: bool) -> None:
    """List the folder DIR that the server at HOST:PORT serves.

    A line has the permissions, the size in bytes, the time of the last change (UTC) and the name.
    """
    from jetstreamproto.cli.connection import run_session

    assert isinstance(options.target, Location)
    path = options.target.path.rstrip("/")

    async def work(_reactor: ReactorBase, session: Session) -> Contents:
        from jetstreamproto.services.files.client import FileClient

        with about(path):
            return await FileClient(session).list(path, deep=recursive)

    contents = run_session(options, work)
    if as_json:
        entries = [_object(entry, path) for entry in contents.entries]
        show_object({"path": path, "entries": entries, "unnamed": contents.unnamed})
        return
    for entry in contents.entries:
        show(_line(entry, path))
    if contents.unnamed:
        note(f"{contents.unnamed} more have names that cannot be told")


def _object(entry: Entry, path: str) -> dict[str, object]:
    return {
        "path": entry.path or path,
        "kind": entry.kind.name.lower(),
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "mode": f"{entry.mode:04o}",
    }


def _line(entry: Entry, path: str) -> str:
    from jetstreamproto.services.files.model import EntryKind

    types = {EntryKind.FILE: "-", EntryKind.FOLDER: "d", EntryKind.LINK: "l"}
    permissions = types.get(entry.kind, "?") + stat.filemode(entry.mode & 0o777)[1:]
    mark = "/" if entry.kind is EntryKind.FOLDER else ""
    name = clean(entry.path or path) + mark
    return f"{permissions} {entry.size:>12} {_time(entry.mtime_ns)} {name}"


def _time(mtime_ns: int) -> str:
    try:
        return f"{datetime.fromtimestamp(mtime_ns // 10**9, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):  # a time that no calendar has
        return "?" * 16
