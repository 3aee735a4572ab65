"""Rounds of measurements: every contender in its turn, with fresh processes each time."""

from __future__ import annotations

import json
import platform
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import monotonic
from types import TracebackType
from typing import Any

from OpenSSL import SSL

from tests.benchmarks.certificate import write_certificate
from tests.benchmarks.child import MEASURE, TURN
from tests.benchmarks.job import Job

OURS = "jetstream"

ROOT = Path(__file__).resolve().parents[2]
_GRACE = 5.0  # seconds for a child to end once it was told to

Figures = dict[str, float]


class ChildFailed(Exception):
    """A child process broke off, or was too slow."""


class Child:
    """A process that runs one job; it is gone when the `with` block is."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._deadline = monotonic() + job.deadline
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.child", job.to_json()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(_GRACE if kind is None else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()

    def answer(self) -> dict[str, Any]:
        """The next object that the child says. Raises `ChildFailed` at the job's deadline."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, self._deadline - monotonic())):
                    raise ChildFailed(f"no answer in {self._job.deadline:g} s: {self._job}")
                data = self._process.stdout.read(1 << 16)
                if not data:
                    raise ChildFailed(f"the child broke off: {self._job}")
                self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise ChildFailed(answer["error"])
        return answer

    def measure(self) -> dict[str, int]:
        """The child's memory in KiB."""
        return self._ask(MEASURE)

    def turn(self) -> Figures:
        """What another turn of a client gives."""
        return self._ask(TURN)

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        return self.answer()


@contextmanager
def certificate() -> Iterator[str]:
    """The file name of the certificate for all servers of a run."""
    with tempfile.TemporaryDirectory() as folder:
        yield str(write_certificate(Path(folder)))


def run_pair(job: Job) -> Figures:
    """What a client measures against a server of its own."""
    with Child(job) as server:
        port = server.answer()["port"]
        with Child(replace(job, port=port, server_pid=server.pid)) as client:
            return client.answer()


class Results:
    """The figures of every round, by contender and case (such as a number of sessions)."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[str, list[Figures]]] = {}

    def add(self, contender: str, case: str, figures: Figures) -> None:
        self._rounds.setdefault(case, {}).setdefault(contender, []).append(figures)

    @property
    def cases(self) -> Sequence[str]:
        return tuple(self._rounds)

    def contenders(self, case: str) -> Sequence[str]:
        return tuple(self._rounds[case])

    def values(self, case: str, contender: str, metric: str) -> list[float]:
        return [figures[metric] for figures in self._rounds[case][contender]]

    def has(self, case: str, contender: str, metric: str) -> bool:
        """Whether this contender has such a figure at all."""
        return metric in self._rounds[case].get(contender, [{}])[0]

    def median(self, case: str, contender: str, metric: str) -> float:
        return median(self.values(case, contender, metric))

    def ratio(self, case: str, peer: str, metric: str) -> float | None:
        """Ours to the peer's median; None without either."""
        if not self.has(case, OURS, metric) or not self.has(case, peer, metric):
            return None
        theirs = self.median(case, peer, metric)
        return self.median(case, OURS, metric) / theirs if theirs else None

    def to_object(self) -> dict[str, Any]:
        """Everything, for JSON."""
        shown: dict[str, Any] = {}
        for case, contenders in self._rounds.items():
            shown[case] = {
                contender: {
                    metric: {
                        "median": self.median(case, contender, metric),
                        "values": self.values(case, contender, metric),
                        "ratio": self.ratio(case, contender, metric),
                    }
                    for metric in rounds[0]
                }
                for contender, rounds in contenders.items()
            }
        return shown


def rounds(
    count: int,
    contenders: Sequence[str],
    cases: Sequence[str],
    measure: Callable[[str, str], Figures],
) -> Results:
    """Call `measure(contender, case)` in turns, A B A B; its first figure is shown at once."""
    results = Results()
    for number in range(1, count + 1):
        for case in cases:
            for contender in contenders:
                figures = measure(contender, case)
                results.add(contender, case, figures)
                metric, value = next(iter(figures.items()))
                note(f"round {number}/{count}: {case}, {contender}: {metric} {value:.6g}")
    return results


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, Any]:
    """What the figures were taken with."""
    return {
        "python": platform.python_version(),
        "twisted": version("twisted"),
        "openssl": SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode(),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }
