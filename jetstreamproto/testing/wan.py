"""Two programs joined by an emulated long-distance link, on one machine and in real time.

    python -m jetstreamproto.testing.wan [options] -- SERVER-COMMAND ::: CLIENT-COMMAND

Each runs in a network namespace of its own, the client at 198.18.0.1 and the server at 198.18.0.2.
All their IP packets pass through a `LinkModel`, each direction through its own. It needs root on
Linux, and leaves nothing behind however it ends. The exit status is the client's, 124 if it took
longer than --limit, and 2 if it could not be started. The counters go to stderr at the end, and on
SIGUSR1; SIGUSR2 begins or ends a blackhole.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from time import monotonic, sleep
from types import FrameType

from jetstreamproto.testing.linkmodel import LinkModel, LinkOptions
from jetstreamproto.testing.netns import NamespaceError, NetworkNamespace, missing
from jetstreamproto.testing.relay import PacketRelay, flip_payload_bit

CLIENT_ADDRESS = "198.18.0.1"
SERVER_ADDRESS = "198.18.0.2"

_PATIENCE = 3.0  # seconds for programs to end after SIGTERM
_TIMED_OUT = 124  # as timeout(1) says it
_PRIORITY = -15
_TIMER_SLACK = "/proc/self/timerslack_ns"


# --- what to do ----------------------------------------------------------------------------


@dataclass(frozen=True)
class WanPlan:
    """What the command line asks for."""

    there: LinkOptions
    """From the client to the server."""
    back: LinkOptions
    seed: int
    wait: float
    """Seconds between the starts of server and client."""
    limit: float
    congestion_control: str | None
    server: list[str]
    client: list[str]


def parse_plan(argv: Sequence[str]) -> WanPlan:
    """Read the command line; one that is wrong ends the program as argparse does."""
    parser = _parser()
    words = list(argv)
    if "--" not in words:
        parser.parse_args(words)  # perhaps --help
        parser.error("a -- goes before the commands")
    split = words.index("--")
    given = parser.parse_args(words[:split])
    commands = words[split + 1 :]
    if ":::" not in commands:
        parser.error("a ::: goes between the commands")
    split = commands.index(":::")
    server, client = commands[:split], commands[split + 1 :]
    if not server or not client:
        parser.error("there must be two commands")
    try:
        there = LinkOptions(
            rate=given.rate_mbit * 1e6 if given.rate_mbit else None,
            delay=given.delay_ms / 1000,
            jitter=given.jitter_ms / 1000,
            loss=given.loss,
            burst_loss=given.burst_loss,
            burst_length=given.burst_len,
            corrupt=given.corrupt,
            duplicate=given.dup,
            reorder=given.reorder,
            queue=given.queue_ms / 1000,
            overhead=0,  # what is carried are IP packets
        )
        back = there if given.back_loss is None else replace(there, loss=given.back_loss)
    except ValueError as error:
        parser.error(str(error))
    return WanPlan(there, back, given.seed, given.wait, given.limit, given.cc, server, client)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jetstreamproto.testing.wan",
        description=f"Join two programs by an emulated link: the client at {CLIENT_ADDRESS}, "
        f"the server at {SERVER_ADDRESS}. Root, Linux.",
        usage="%(prog)s [options] -- SERVER-COMMAND ::: CLIENT-COMMAND",
        allow_abbrev=False,
    )
    for name, default, what in (
        ("--loss", 0.0, "of the packets"),
        ("--burst-loss", 0.0, "lost in bursts, besides --loss"),
        ("--back-loss", None, "from server to client, instead of --loss"),
        ("--corrupt", 0.0, "arrive with a wrong bit (UDP: and with a right checksum)"),
        ("--dup", 0.0, "arrive twice"),
        ("--reorder", 0.0, "arrive early, after half the delay"),
    ):
        parser.add_argument(name, type=_percentage, default=default, metavar="PERCENT", help=what)
    for name, default, what in (
        ("--rate-mbit", 0.0, "millions of bits per second (no limit)"),
        ("--delay-ms", 0.0, "one way (0)"),
        ("--jitter-ms", 0.0, "up to that much more; packets overtake each other (0)"),
        ("--queue-ms", 50.0, "packets that would wait longer are dropped (50)"),
        ("--burst-len", 4.0, "packets in a burst, on the average (4)"),
        ("--wait", 1.0, "seconds between the starts of server and client (1)"),
        ("--limit", 120.0, "seconds after which the client is stopped (120)"),
    ):
        parser.add_argument(name, type=_amount, default=default, metavar="N", help=what)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of what is random (1)")
    parser.add_argument("--cc", metavar="NAME", help="TCP's congestion control")
    return parser


def _percentage(text: str) -> float:
    """A fraction from the text of a percentage."""
    number = float(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError("a percentage is from 0 to 100")
    return number / 100


def _amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError("it cannot be negative or infinite")
    return number


# --- doing it ------------------------------------------------------------------------------


class Wan:
    """The link, and the two programs at its ends."""

    def __init__(self, plan: WanPlan) -> None:
        self._plan = plan
        self._signals: list[int] = []
        self._ended_by = 0
        self._wake, self._waker = socket.socketpair()
        self._ends: list[NetworkNamespace] = []
        self._programs: list[subprocess.Popen[bytes]] = []

    def run(self) -> int:
        """Run the programs until the client has ended; the exit status."""
        ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        others = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)
        before = {number: signal.signal(number, self._signalled) for number in (*ends, *others)}
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno())
        gc.disable()  # it would make packets late
        try:
            return self._run()
        finally:
            for number in ends:
                signal.signal(number, signal.SIG_IGN)
            self._clean_up()
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            gc.enable()

    def _run(self) -> int:
        plan = self._plan
        for address in (CLIENT_ADDRESS, SERVER_ADDRESS):
            self._ends.append(NetworkNamespace(address, plan.congestion_control))
        client_end, server_end = self._ends
        there, back = (
            LinkModel(options, Random(f"{plan.seed} {name}"), flip_payload_bit)
            for options, name in ((plan.there, "there"), (plan.back, "back"))
        )
        relay = PacketRelay((client_end.device, server_end.device), (there, back))
        self._programs.append(server_end.start(plan.server, stdin=subprocess.DEVNULL))
        client = None
        if self._carry(relay, plan.wait):
            client = client_end.start(plan.client)
            self._programs.append(client)
            self._carry(relay, plan.limit, client)
        print(relay.report(), file=sys.stderr, flush=True)
        if self._ended_by:
            return 128 + self._ended_by
        status = client.poll() if client is not None else None
        if status is None:
            return _TIMED_OUT
        return status if status >= 0 else 128 - status

    def _carry(
        self, relay: PacketRelay, seconds: float, program: subprocess.Popen[bytes] | None = None
    ) -> bool:
        """Carry packets for so long, or until `program` has ended; False if a signal says stop."""
        end = monotonic() + seconds
        with _punctual():
            while monotonic() < end and (program is None or program.poll() is None):
                relay.run(end, self._wake.fileno())
                with contextlib.suppress(BlockingIOError):
                    self._wake.recv(4096)
                while self._signals:
                    self._handle(self._signals.pop(0), relay)
                if self._ended_by:
                    return False
        return True

    def _handle(self, number: int, relay: PacketRelay) -> None:
        if number == signal.SIGUSR1:
            print(relay.report(), file=sys.stderr, flush=True)
        elif number == signal.SIGUSR2:
            relay.blackhole = not relay.blackhole
        elif number != signal.SIGCHLD:
            self._ended_by = number

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _clean_up(self) -> None:
        """End every process at either end, and give up the networks."""
        self._send_all(signal.SIGTERM)
        for number in (0, signal.SIGKILL):
            patience = monotonic() + _PATIENCE
            while self._send_all(number) and monotonic() < patience:
                sleep(0.01)
        for program in self._programs:
            program.wait()
        for end in self._ends:
            end.close()
        self._wake.close()
        self._waker.close()

    def _send_all(self, number: int) -> bool:
        """Send a signal to all of them; whether there were any."""
        found = [pid for end in self._ends for pid in end.processes()]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return bool(found)


@contextlib.contextmanager
def _punctual() -> Iterator[None]:
    """Run before other programs, and wake when said, not up to 50 microseconds later."""

    def allow(slack: str) -> None:
        with contextlib.suppress(OSError), open(_TIMER_SLACK, "w", encoding="ascii") as setting:
            setting.write(slack)

    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    allow("1")
    try:
        yield
    finally:
        allow("0")  # what it was
        os.setpriority(os.PRIO_PROCESS, 0, before)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    plan = parse_plan(sys.argv[1:] if argv is None else argv)
    trouble = missing()
    try:
        if trouble is None:
            return Wan(plan).run()
    except NamespaceError as error:
        trouble = str(error)
    print(f"wan: {trouble}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
