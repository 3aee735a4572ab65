"""Draws how each congestion control fills a path: python docs/plots/congestion.py OUTDIR

A client sends over UDP, through the whole stack, on a simulated path (`SimulatedNetwork`); a
picture a loss rate shows each algorithm's congestion window and what has been delivered.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # to run from a checkout

from jetstreamproto.reliability.settings import DatagramSettings  # noqa: E402
from jetstreamproto.session.protocol import ChannelProtocol  # noqa: E402
from jetstreamproto.testing import DatagramPair, LinkOptions  # noqa: E402

ALGORITHMS = {"bbr": "BBR", "cubic": "CUBIC", "newreno": "NewReno"}
COLOURS = {"bbr": "#1769aa", "cubic": "#d9480f", "newreno": "#5c8a1e"}
LOSSES = (0.0, 0.02, 0.1)
RATE, DELAY, QUEUE = 100e6, 0.025, 0.05  # bits per second, seconds one way, seconds
SECONDS, EVERY = 5.0, 0.02
SEED = 7
_CHUNK = Random(SEED).randbytes(1 << 16)  # does not compress
_AHEAD = 4 << 20

WIDTH, HEIGHT = 860, 330
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 62, 18, 62, 46, 78


class Sample(NamedTuple):
    """The state of a transfer `time` seconds after it started; sizes are in bytes."""

    time: float
    window: int
    delivered: int


class _Sink(ChannelProtocol):
    """Counts what arrives."""

    size = 0

    def message_received(self, message: bytes) -> None:
        self.size += len(message)


class _Source(ChannelProtocol):
    """Sends as much as it may."""

    sent = 0

    def fill(self, until: int) -> None:
        while self.sent < until:
            self.channel.send(_CHUNK)
            self.sent += len(_CHUNK)


def trace(algorithm: str, loss: float) -> list[Sample]:
    """Send for a while with `algorithm` over a path that loses the share `loss` at random."""
    sink, source = _Sink(), _Source()
    pair = DatagramPair(
        {"sink": lambda: sink},
        link=LinkOptions(rate=RATE, delay=DELAY, queue=QUEUE, loss=loss),
        back=LinkOptions(rate=RATE, delay=DELAY),
        seed=SEED,
        datagrams=DatagramSettings(congestion=algorithm, mtu=1472),
    )
    pair.run(pair.client.open("sink", source))
    started, samples = pair.clock.seconds(), []
    connection = pair.client_link.connection
    assert connection is not None
    congestion = connection.sender.congestion
    for i in range(round(SECONDS / EVERY) + 1):
        while pair.clock.seconds() < started + i * EVERY:
            source.fill(sink.size + _AHEAD)
            pair.advance(0.005)
        samples.append(Sample(i * EVERY, congestion.window, sink.size))
    return samples


# --- the picture ------------------------------------------------------------------------------


def _panel(
    left: float,
    title: str,
    lines: dict[str, list[tuple[float, float]]],
    top: float,
    ticks: list[float],
    note: tuple[float, str] | None = None,
) -> str:
    """Axes and lines; `top` is the highest value, `note` a level worth marking and its name."""
    width = (WIDTH - _LEFT - _RIGHT - _GAP) / 2
    height = HEIGHT - _TOP - _BOTTOM

    def x(time: float) -> float:
        return left + time / SECONDS * width

    def y(value: float) -> float:
        return _TOP + height * (1 - min(value, top) / top)

    parts = [f'<text class="title" x="{left}" y="{_TOP - 12}">{title}</text>']
    for value in ticks:
        parts.append(
            f'<path class="grid" d="M{left},{y(value):.1f}h{width}"/>'
            f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for second in range(int(SECONDS) + 1):
        parts.append(
            f'<path class="axis" d="M{x(second):.1f},{_TOP + height}v4"/>'
            f'<text x="{x(second):.1f}" y="{_TOP + height + 18}" text-anchor="middle">'
            f"{second}</text>"
        )
    parts.append(
        f'<path class="axis" d="M{left},{_TOP}v{height}h{width}"/>'
        f'<text x="{left + width / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle">seconds</text>'
    )
    if note is not None:
        level, name = note
        parts.append(
            f'<path class="mark" d="M{left},{y(level):.1f}h{width}"/>'
            f'<text x="{left + width}" y="{y(level) + 15:.1f}" text-anchor="end">{name}</text>'
        )
    for algorithm, points in lines.items():
        path = "L".join(f"{x(time):.1f},{y(value):.1f}" for time, value in points)
        parts.append(f'<path class="line" stroke="{COLOURS[algorithm]}" d="M{path}"/>')
    return "\n".join(parts)


def _legend(left: float) -> str:
    parts = []
    for i, (algorithm, name) in enumerate(ALGORITHMS.items()):
        x = left + 92 * i
        parts.append(
            f'<path class="line" stroke="{COLOURS[algorithm]}" d="M{x},20h22"/>'
            f'<text x="{x + 28}" y="24">{name}</text>'
        )
    return "\n".join(parts)


def draw(loss: float, traces: dict[str, list[Sample]]) -> str:
    """An SVG picture of `traces`, by algorithm."""

    def lines(value: Callable[[Sample], float]) -> dict[str, list[tuple[float, float]]]:
        return {name: [(s.time, value(s)) for s in samples] for name, samples in traces.items()}

    windows = lines(lambda sample: sample.window / 1e6)
    delivered = lines(lambda sample: sample.delivered / 1e6)
    bdp = RATE / 8 * 2 * DELAY / 1e6
    mark = (bdp, "rate times round trip")
    second = _LEFT + (WIDTH - _LEFT - _RIGHT - _GAP) / 2 + _GAP
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" \
width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="Congestion window and bytes delivered">
<style>
text {{ font: 12px system-ui, sans-serif; fill: #333 }}
.title {{ font-weight: 600 }}
.grid {{ stroke: #e4e4e4; fill: none }}
.axis {{ stroke: #777; fill: none }}
.mark {{ stroke: #777; fill: none; stroke-dasharray: 4 4 }}
.line {{ fill: none; stroke-width: 2; stroke-linejoin: round }}
</style>
<rect width="100%" height="100%" fill="#fff"/>
<text class="title" x="{_LEFT}" y="24">{loss:.0%} random loss</text>
<text x="{_LEFT + 132}" y="24">100 Mbit/s, 50 ms round trip, 50 ms queue</text>
{_legend(second)}
{_panel(_LEFT, "Congestion window, MB", windows, 2.5, [0, 0.5, 1, 1.5, 2, 2.5], mark)}
{_panel(second, "Delivered, MB", delivered, 60.0, [0, 15, 30, 45, 60])}
</svg>
"""


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for loss in LOSSES:
        traces = {algorithm: trace(algorithm, loss) for algorithm in ALGORITHMS}
        target = directory / f"congestion-{loss * 100:g}.svg"
        target.write_text(draw(loss, traces))
        for algorithm, samples in traces.items():
            rate = samples[-1].delivered * 8 / SECONDS / 1e6
            print(f"{target.name}: {ALGORITHMS[algorithm]:8} {rate:5.1f} Mbit/s")


if __name__ == "__main__":
    main()
