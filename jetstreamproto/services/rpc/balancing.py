"""Which provider is next: its figures, the policies, outlier ejection and the budget of retries.

Time and chance are arguments here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.rpc.model import RpcStatus

Chance = Callable[[], float]
"""As `random.random`: from 0.0 up to, and without, 1.0."""

FAULTS: Final = frozenset(
    {
        RpcStatus.UNKNOWN,
        RpcStatus.DEADLINE_EXCEEDED,
        RpcStatus.INTERNAL,
        RpcStatus.UNAVAILABLE,
        RpcStatus.DATA_LOSS,
    }
)
"""What speaks against a provider, rather than against what it was asked."""

_SMOOTHING: Final = 0.3  # the weight of the newest call in a provider's latency


class Figures:
    """What is known of one provider."""

    __slots__ = ("ejected_until", "ejections", "faults", "latency", "outstanding")

    def __init__(self) -> None:
        self.outstanding = 0
        self.latency: float | None = None
        """Seconds, an exponentially weighted mean; None before the first call."""
        self.faults = 0
        """In a row."""
        self.ejections = 0
        """In a row."""
        self.ejected_until = 0.0

    def began(self) -> None:
        """A call was sent to it."""
        self.outstanding += 1

    def ended(self, seconds: float, fault: bool) -> None:
        """A call has ended, after `seconds`."""
        self.outstanding -= 1
        if self.latency is None:
            self.latency = seconds
        elif not fault or seconds > self.latency:  # failing quickly makes nobody attractive
            self.latency += _SMOOTHING * (seconds - self.latency)
        if fault:
            self.faults += 1
        else:
            self.faults = self.ejections = 0


class Policy(Protocol):
    """How one is chosen of several providers."""

    def choose(self, choices: Sequence[Figures], chance: Chance) -> int:
        """The index of one of the `choices`, of which there is at least one."""


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, choices: Sequence[Figures], chance: Chance) -> int:
        self._next += 1
        return (self._next - 1) % len(choices)


class LeastOutstanding:
    """The one with the fewest calls under way; by chance among equals."""

    def choose(self, choices: Sequence[Figures], chance: Chance) -> int:
        fewest = min(one.outstanding for one in choices)
        least = [index for index, one in enumerate(choices) if one.outstanding == fewest]
        return least[int(chance() * len(least))]


class PowerOfTwo:
    """The better of two taken by chance (Mitzenmacher, "The Power of Two Choices", 2001).

    Better is who is likely to answer sooner: by latency times calls under way. One that has not
    been called yet counts as fast.
    """

    def choose(self, choices: Sequence[Figures], chance: Chance) -> int:
        count = len(choices)
        if count == 1:
            return 0
        first = int(chance() * count)
        second = (first + 1 + int(chance() * (count - 1))) % count
        return first if _load(choices[first]) <= _load(choices[second]) else second


def _load(one: Figures) -> float:
    return (one.latency or 0.0) * (one.outstanding + 1)


POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "round-robin": RoundRobin,
    "least-outstanding": LeastOutstanding,
    "power-of-two": PowerOfTwo,
}


def make_policy(name: str) -> Policy:
    """The policy of that name. Raises `ConfigurationError` if there is none."""
    if name not in POLICIES:
        raise ConfigurationError(f"no policy {name!r}; there is {', '.join(POLICIES)}")
    return POLICIES[name]()


@dataclass(frozen=True)
class Ejection:
    """When a provider that keeps failing is left alone.

    After `faults` in a row it gets no calls for `seconds`, and twice as long, up to
    `longest`, each time that it goes on so. Never are more than the part `most` of all out.
    """

    faults: int = 5
    seconds: float = 10.0
    longest: float = 300.0
    most: float = 0.5

    def consider(self, one: Figures, everyone: Sequence[Figures], now: float) -> bool:
        """Eject `one` if it is due; whether it was."""
        if one.faults < self.faults or one.ejected_until > now:
            return False
        out = sum(other.ejected_until > now for other in everyone)
        if out + 1 > self.most * len(everyone):
            return False
        one.ejected_until = now + min(self.seconds * 2**one.ejections, self.longest)
        one.ejections = min(one.ejections + 1, 32)
        one.faults = 0
        return True


class RetryBudget:
    """Bounds retries to a part of the calls, so that they cannot become the load themselves.

    Every call adds `ratio` of a retry, up to `most` saved ones; it starts full.
    """

    __slots__ = ("_most", "_ratio", "_saved")

    def __init__(self, ratio: float = 0.1, most: float = 10.0) -> None:
        self._ratio = ratio
        self._most = most
        self._saved = most

    def earn(self) -> None:
        """A call is made."""
        self._saved = min(self._most, self._saved + self._ratio)

    def spend(self) -> bool:
        """Whether one retry may be made."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
