"""Whole trees: what there is to transfer, and many files at a time."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from jetstreamproto.errors import ChannelReset, FileError, JetStreamError
from jetstreamproto.services.files.asking import Transfer
from jetstreamproto.services.files.failures import explained
from jetstreamproto.services.files.folder import Folder
from jetstreamproto.services.files.listing import MAX_ENTRIES
from jetstreamproto.services.files.messages import Entry
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    PARTIAL,
    EntryKind,
    FileCode,
    Verdict,
    check_name,
    check_target,
    is_good_name,
    read_path,
)

LANES = 16
"""Small files under way at a time, so that round trips do not add up."""


@dataclass(frozen=True)
class Item:
    """One file to transfer: where it is here, where it is or is to be there, its size if known."""

    here: Path | None
    there: str
    size: int | None


@dataclass
class Tree:
    """What there is to transfer. `folders` are the ones without anything in them."""

    files: list[Item] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """What is neither file nor folder, or not complete, each as a sentence."""
    name: str = ""
    """Of a remote tree: its own last name, "" for the whole folder that is served."""
    single: Item | None = None
    """Of a remote tree: the one file that it is, rather than a folder."""

    @property
    def size(self) -> int | None:
        """Bytes in all; None if that is not known."""
        sizes = [item.size for item in self.files if item.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


def local_tree(paths: Iterable[Path], folder: str) -> Tree:
    """These files and folders, to be in `folder` of the server. Blocks; raises `FileError`."""
    tree = Tree()
    for path in paths:
        name = path.name or path.resolve().name
        if name == "..":
            name = path.resolve().name
        check_name(name)
        there = f"{folder}/{name}" if folder else name
        try:
            with explained():
                found = path.stat()  # what is named may be a link
        except FileError as error:
            raise FileError(error.code, f"{path}: {error}") from error
        if stat.S_ISREG(found.st_mode):
            check_target((name,))
        _add(tree, path, there, found)
    return tree


def _add(tree: Tree, path: Path, there: str, found: os.stat_result) -> None:
    """Add what is at `path`, and what is below it. Links below are left out."""
    waiting = deque([(path, there, found)])
    while waiting:
        path, there, found = waiting.popleft()
        if len(tree.files) + len(tree.folders) > MAX_ENTRIES:
            raise FileError(FileCode.TOO_LARGE, f"over {MAX_ENTRIES} files and folders")
        if stat.S_ISREG(found.st_mode):
            if path.name.endswith(PARTIAL):
                tree.left_out.append(
                    f"{path}: its name ends in {PARTIAL}, as of what is not complete"
                )
            else:
                tree.files.append(Item(path, there, found.st_size))
        elif stat.S_ISDIR(found.st_mode):
            inside = _inside(tree, path)
            if not inside:
                tree.folders.append(there)
            waiting.extend((below, f"{there}/{below.name}", has) for below, has in inside)
        else:
            tree.left_out.append(f"{path} is a link, or no file")


def _inside(tree: Tree, folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_good_name(entry.name):
                    found.append((Path(entry), entry.stat(follow_symlinks=False)))
                else:
                    tree.left_out.append(f"{folder}: {entry.name!a} is no name to be sent")
            return sorted(found)
    except OSError as error:
        tree.left_out.append(f"{folder}: {error.strerror}")
        return []


def remote_tree(path: str, entries: Sequence[Entry]) -> Tree:
    """The files and folders of a deep listing of `path`. `here` of each is relative to it."""
    tree = Tree(name=path.rpartition("/")[2])
    above = {entry.path.rpartition("/")[0] for entry in entries}
    for entry in entries:
        there = "/".join(filter(None, (path, entry.path)))
        if entry.kind is EntryKind.FILE:
            tree.files.append(Item(Path(entry.path), there, entry.size))
        elif entry.kind is not EntryKind.FOLDER:
            tree.left_out.append(f"{there} is a link, or no file")
        elif entry.path not in above:
            tree.folders.append(entry.path)
    if len(entries) == 1 and not entries[0].path and tree.files:
        tree.single = tree.files[0]
    return tree


def open_place(root: Path, tree: Tree, dry_run: bool) -> Folder | None:
    """The folder `root`, made if it is not there, with the empty folders of `tree` in it.

    Nothing is made for a `dry_run`, so that there may be no folder. Blocks.
    """
    if not dry_run and tree.single is None:
        with explained():
            root.mkdir(exist_ok=True)
    if dry_run and not root.is_dir():
        return None
    folder = Folder(root)
    if not dry_run:
        for path in tree.folders:
            folder.make_folder(read_path(path))
    return folder


def would_transfer(tree: Tree) -> Outcome:
    """What becomes of a tree where there is nothing yet, if somebody only wants to know."""
    done = [Transfer(item.there, Verdict.SEND, item.size or 0) for item in tree.files]
    return Outcome(done)


@dataclass
class Outcome:
    """How the transfers of a tree have ended."""

    done: list[Transfer] = field(default_factory=list)
    failed: list[tuple[str, JetStreamError]] = field(default_factory=list)


async def transfer_all(
    items: Iterable[Item],
    transfer: Callable[[Item], Coroutine[Deferred[Any], Any, Transfer]],
    *,
    in_turn: bool = False,
) -> Outcome:
    """Transfer each; those of up to a chunk `LANES` at a time, large ones one after another.

    So a cut costs no more than one chunk of a large file. A file that fails does not keep the
    others from their turn; a session that is lost does. `in_turn` is one at a time in any case.
    """
    outcome = Outcome()
    large = [item for item in items if in_turn or item.size is None or item.size > CHUNK_SIZE]
    chosen = set(map(id, large))
    small = iter([item for item in items if id(item) not in chosen])
    lanes = [iter(large), *([small] * LANES)]
    tasks = [Deferred.fromCoroutine(_lane(lane, transfer, outcome)) for lane in lanes]
    waiting = DeferredList(tasks, fireOnOneErrback=True, consumeErrors=True)
    try:
        await waiting
    except BaseException as error:
        for task in tasks:
            task.cancel()
        cause = getattr(error, "subFailure", None)  # of a FirstError
        if cause is not None:
            cause.raiseException()
        raise
    return outcome


async def _lane(
    items: Iterator[Item],
    transfer: Callable[[Item], Coroutine[Deferred[Any], Any, Transfer]],
    outcome: Outcome,
) -> None:
    for item in items:
        try:
            outcome.done.append(await transfer(item))
        except (FileError, ChannelReset) as error:
            outcome.failed.append((item.there, error))
