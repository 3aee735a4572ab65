"""What one child process is to do, as its parent tells it on its command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Job:
    """A child is the client of `port`, or the server when that is 0.

    `contender` and `task` name a module of `contenders` (or a variant, as in `udp-1472`) and a
    function in it; `deadline` is when the child ends itself, `profile` a file for its cProfile
    statistics or its samples, `reactor` one of `contenders.reactors` if it is not the usual.
    """

    contender: str
    task: str
    certificate: str
    port: int = 0
    server_pid: int = 0
    seconds: float = 0.0
    concurrency: int = 1
    sessions: int = 0
    deadline: float = 60.0
    profile: str = ""
    sampled: bool = False
    reactor: str = ""

    def module(self) -> Any:
        """The contender's module."""
        return import_module(f"tests.benchmarks.contenders.{self.contender.split('-')[0]}")

    @property
    def variant(self) -> list[str]:
        """The words behind the module's name: `["fec", "1472"]` of `udp-fec-1472`."""
        return self.contender.split("-")[1:]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))
