"""Emulated long-distance links, and running the two ends of a benchmark over one.

It is `jetstreamproto.testing.wan` that joins them, which needs root on Linux; it ends both and
gives up their networks whichever way the run ends.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetstreamproto.security.identity import Identity
from jetstreamproto.testing.netns import missing
from jetstreamproto.testing.wan import SERVER_ADDRESS
from tests.benchmarks.certificate import write_certificate
from tests.benchmarks.far_end import OURS_PORT
from tests.benchmarks.near_end import Start, command
from tests.benchmarks.runner import note

_ROOT = Path(__file__).resolve().parents[2]
_COUNTERS = re.compile(
    r"^(?:client>server|server>client) offered=(\d+) delivered=(\d+) bytes=(\d+)"
)
_REPORT = re.compile(r"^(client>server|server>client|late) ")
_NOT_TROUBLE = re.compile(r" is known by sha256:| made a new identity")
_TIMED_OUT = 124


class RunFailed(Exception):
    """A run over a link that gave no result; the text says why."""


@dataclass(frozen=True)
class Link:
    """`rate` is in Mbit/s, `rtt` and `queue` in milliseconds, `loss` in percent each way."""

    rate: float
    rtt: float
    loss: float
    queue: float = 50.0

    @classmethod
    def parse(cls, text: str, queue: float = 50.0) -> Link:
        """`100/50/2`: Mbit/s, ms of round trip and % of loss. Raises `ValueError`."""
        rate, rtt, loss = (float(part) for part in text.split("/"))
        if rate < 0 or rtt < 0 or not 0 <= loss <= 100:
            raise ValueError
        return cls(rate, rtt, loss, queue)

    def __str__(self) -> str:
        rate = f"{self.rate:g} Mbit/s, " if self.rate else ""
        return f"{rate}{self.rtt:g} ms, {self.loss:g}% loss"

    def options(self) -> list[str]:
        """For `testing.wan`."""
        values = {"delay-ms": self.rtt / 2, "loss": self.loss, "queue-ms": self.queue}
        if self.rate:
            values["rate-mbit"] = self.rate
        return [f"--{name}={value:g}" for name, value in values.items()]


def link_argument(text: str) -> str:
    """An option's value that `Link.parse` takes."""
    try:
        Link.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not MBIT/RTT_MS/LOSS_PERCENT, such as 100/50/2"
        ) from None
    return text


@dataclass(frozen=True)
class Outcome:
    """What the client printed, and the bytes of IP that both ends gave to the link."""

    printed: str
    link_bytes: float

    def figures(self) -> dict[str, Any]:
        """The object that the client printed. Raises `RunFailed`."""
        try:
            found: dict[str, Any] = json.loads(self.printed)
        except ValueError:
            raise RunFailed(f"no result but {self.printed!r}") from None
        return found


class Ends:
    """The servers and clients of the runs of one benchmark, and their folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pin = Identity.from_files(write_certificate(folder)).fingerprint

    def bench(self, *options: str) -> list[str]:
        """`jetstream bench` to our server at the far end."""
        target = f"{SERVER_ADDRESS}:{OURS_PORT}"
        words = [sys.executable, "-m", "jetstreamproto.cli", "bench", target, "--pin", self._pin]
        return [*words, "--state-dir", str(self.folder / "client"), "--json", *options]

    def run(
        self,
        link: Link,
        clients: Sequence[Start],
        *,
        seed: int,
        limit: float,
        seconds: float = 0.0,
        congestion: str | None = None,
    ) -> Outcome:
        """Run clients against fresh servers. Raises `RunFailed`, also after `limit` seconds.

        One client runs to its end, but no longer than `seconds` (0: as long as it takes), several
        run for `seconds`. `congestion` is TCP's at both ends where it is not asked for another.
        """
        for stale in self.folder.glob("*.ready"):
            stale.unlink()
        for stale in self.folder.glob("*.samples"):
            stale.unlink()
        server = [sys.executable, "-m", "tests.benchmarks.far_end", str(self.folder)]
        client = command(self.folder, clients, seconds)
        words = [sys.executable, "-m", "jetstreamproto.testing.wan", *link.options()]
        words += [f"--seed={seed}", f"--limit={limit:g}", "--wait=0"]
        words += [f"--cc={congestion}"] if congestion else []
        words += ["--", *server, ":::", *client]
        wan = subprocess.Popen(
            words, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            printed, told = wan.communicate()
        finally:
            if wan.poll() is None:
                wan.terminate()
                wan.wait()
        trouble = [line for line in told.splitlines() if not _REPORT.match(line)]
        trouble = [line for line in trouble if line and not _NOT_TROUBLE.search(line)]
        if wan.returncode:
            why = f"not done in {limit:g} s" if wan.returncode == _TIMED_OUT else "it failed"
            shown = "\n".join([printed, *trouble]).strip()
            raise RunFailed(f"{why}: {shlex.join(client)}\n{shown}")
        for line in trouble:
            note(f"  said: {line}")
        return Outcome(printed, _link_bytes(told))


def _link_bytes(report: str) -> float:
    """The link counts the bytes that it delivered: as many more as it was offered packets."""
    total = 0.0
    for line in report.splitlines():
        if found := _COUNTERS.match(line):
            offered, delivered, size = map(int, found.groups())
            total += size * offered / delivered if delivered else 0
    return total


@contextmanager
def ends(parser: argparse.ArgumentParser) -> Iterator[Ends]:
    """The `Ends` of a program, which ends here with a message where there can be no links.

    SIGINT and SIGTERM end it once the run that is under way has been cleaned up.
    """
    if trouble := missing():
        parser.exit(2, f"{parser.prog}: {trouble}\n")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Ends(Path(folder))
        except RunFailed as failure:
            parser.exit(1, f"{parser.prog}: {failure}\n")
        except KeyboardInterrupt:
            parser.exit(130, f"{parser.prog}: interrupted\n")
