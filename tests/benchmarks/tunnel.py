"""iperf3 through the tunnel: over loopback, and over emulated long-distance links.

Beside it the same load over plain TCP, and through kcptun if `kcptun-server` and
`kcptun-client` are installed. Start-up counts, and only what the receiver has got when the sender
stops. Needs iperf3; links need root on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any

from jetstreamproto.testing.netns import missing
from jetstreamproto.testing.wan import SERVER_ADDRESS
from tests.benchmarks.links import Link, link_argument
from tests.benchmarks.runner import machine, note
from tests.benchmarks.table import render

PLAIN, KCPTUN = "plain", "kcptun"
OURS = ("tcp", "udp", "quic")
NAMES = {PLAIN: "TCP, no tunnel", KCPTUN: "kcptun", **{t: f"jetstream tunnel, {t}" for t in OURS}}

_ROOT = Path(__file__).resolve().parents[2]
_LOOPBACK = "127.0.0.1"
_LOAD, _SERVER, _KCP, _NEAR = 5201, 9000, 29900, 5202  # ports
_PATIENCE = 30.0
_RULES = """
allow_anonymous = true
[[allow]]
peers = ["*"]
services = ["tunnel"]
targets = ["127.0.0.1:5201"]
"""
_KCP_OPTIONS = ("--key", "benchmark", "--crypt", "aes", "--mode", "fast3", "--nocomp")


class RunFailed(Exception):
    """A run that gave no result; the text says why."""


# --- the two ends, each in a process of its own ---------------------------------------------


def far(folder: Path, contender: str) -> None:
    """The load's server and the tunnel's, until this is killed."""
    started = [_start("iperf3", "-s", "-B", "0.0.0.0", "-p", str(_LOAD))]
    ports = [_LOAD]
    if contender in OURS:
        config = folder / "server.toml"
        config.write_text(_RULES)
        words = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"]
        words += ["--pidfile=", "jetstream", "--interface", "0.0.0.0", "--port", str(_SERVER)]
        started.append(_start(*words, "--config", str(config), home=folder))
        ports.append(_SERVER)
    elif contender == KCPTUN:
        where = ("-l", f":{_KCP}", "-t", f"{_LOOPBACK}:{_LOAD}")
        started.append(_start("kcptun-server", *where, *_KCP_OPTIONS))
    try:
        for port in ports:
            _wait_for(port, started)
        (folder / "ready").touch()
        signal.pause()
    finally:
        _stop(started)


def near(folder: Path, contender: str, host: str, options: Sequence[str]) -> None:
    """The tunnel's client and the load; prints what iperf3 reports."""
    end = monotonic() + _PATIENCE
    while not (folder / "ready").exists():
        if monotonic() > end:
            raise RunFailed("the far end is not ready")
        sleep(0.02)
    started = []
    if contender in OURS:
        words = [sys.executable, "-m", "jetstreamproto.cli", "tunnel", f"{host}:{_SERVER}"]
        words += ["--transport", contender, "--bulk", "--trust-new"]
        words += ["-L", f"{_NEAR}:{_LOOPBACK}:{_LOAD}"]
        started.append(_start(*words, home=folder))
    elif contender == KCPTUN:
        where = ("-r", f"{host}:{_KCP}", "-l", f"{_LOOPBACK}:{_NEAR}")
        started.append(_start("kcptun-client", *where, *_KCP_OPTIONS))
    try:
        if started:
            _wait_for(_NEAR, started)
        target = (host, _LOAD) if contender == PLAIN else (_LOOPBACK, _NEAR)
        words = ["iperf3", "-c", target[0], "-p", str(target[1]), "-J", *options]
        print(subprocess.run(words, capture_output=True, text=True, check=False).stdout)
    finally:
        _stop(started)


def _start(*words: str, home: Path | None = None) -> subprocess.Popen[bytes]:
    environ = dict(os.environ, PYTHONPATH=str(_ROOT))
    if home is not None:
        environ["JETSTREAM_HOME"] = str(home)
    return subprocess.Popen(
        words, env=environ, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr
    )


def _stop(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in started:
        process.kill()
        process.wait()


def _wait_for(port: int, started: Sequence[subprocess.Popen[bytes]]) -> None:
    end = monotonic() + _PATIENCE
    while monotonic() < end and all(process.poll() is None for process in started):
        # looked up, not connected to: iperf3 takes one connection as one test
        for name in ("tcp", "tcp6"):
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
            columns = [line.split() for line in lines]
            if any(c[3] == "0A" and int(c[1].rpartition(":")[2], 16) == port for c in columns):
                return
        sleep(0.02)
    raise RunFailed(f"nothing listens on port {port}")


# --- runs -----------------------------------------------------------------------------------


def measure(contender: str, link: Link | None, seed: int, options: Sequence[str]) -> float:
    """Mbit/s at the receiver. Raises `RunFailed`."""
    with tempfile.TemporaryDirectory() as name:
        host = _LOOPBACK if link is None else SERVER_ADDRESS
        program = [sys.executable, "-m", "tests.benchmarks.tunnel"]
        server = [*program, "--far", name, contender]
        client = [*program, "--near", name, contender, host, *options]
        if link is None:
            return _bitrate(_run_here(server, client))
        words = [sys.executable, "-m", "jetstreamproto.testing.wan", *link.options()]
        words += [f"--seed={seed}", "--limit=120", "--wait=0", "--", *server, ":::", *client]
        done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, check=False)
        return _bitrate(done)


def _run_here(server: list[str], client: list[str]) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile("w+") as log:
        far_end = subprocess.Popen(server, cwd=_ROOT, stdout=log, stderr=log)
        try:
            return subprocess.run(client, cwd=_ROOT, capture_output=True, text=True, check=False)
        finally:
            far_end.send_signal(signal.SIGINT)  # so that it ends what it has started
            far_end.wait()


def _bitrate(done: subprocess.CompletedProcess[str]) -> float:
    try:
        report: dict[str, Any] = json.loads(done.stdout)
        return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6
    except (ValueError, KeyError):
        raise RunFailed(f"{done.stdout[-500:]}{done.stderr[-2000:]}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tunnel", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each contender (3)")
    parser.add_argument("--seconds", type=int, default=10, help="of each run (10)")
    parser.add_argument("--contenders", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument(
        "--links",
        nargs="*",
        type=link_argument,
        default=[],
        metavar="MBIT/RTT_MS/LOSS",
        help="loss in percent each way, such as 100/50/2; without any, loopback",
    )
    parser.add_argument("--reverse", action="store_true", help="from the server to the client")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main() -> None:
    if sys.argv[1:2] == ["--far"]:
        far(Path(sys.argv[2]), sys.argv[3])
        return
    if sys.argv[1:2] == ["--near"]:
        near(Path(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])
        return
    parser = _parser()
    chosen = parser.parse_args()
    if shutil.which("iperf3") is None:
        parser.exit(2, "tunnel: iperf3 is not installed\n")
    if chosen.links and (trouble := missing()):
        parser.exit(2, f"tunnel: {trouble}\n")
    contenders = list(chosen.contenders)
    if KCPTUN in contenders and not all(map(shutil.which, ("kcptun-server", "kcptun-client"))):
        contenders.remove(KCPTUN)
        note("kcptun is skipped: kcptun-server and kcptun-client are not installed")
    options = ["-t", str(chosen.seconds), *(["-R"] if chosen.reverse else [])]
    links = [Link.parse(text) for text in chosen.links] or [None]
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(1, chosen.rounds + 1):
        for link in links:
            case = "loopback" if link is None else str(link)
            for contender in contenders:
                try:
                    rate = measure(contender, link, number, options)
                except RunFailed as failure:
                    note(f"{case}, {contender}: {failure}")
                    rate = 0.0
                found.setdefault(case, {}).setdefault(contender, []).append(rate)
                note(f"round {number}/{chosen.rounds}: {case}, {contender}: {rate:.1f} Mbit/s")
    _show(chosen, found)


def _show(chosen: argparse.Namespace, found: dict[str, dict[str, list[float]]]) -> None:
    if chosen.json:
        print(json.dumps({"benchmark": "tunnel", "machine": machine(), "Mbit_per_s": found}))
        return
    for case, rates in found.items():
        rows = [[case, "Mbit/s", "range", "MB/s", "to plain TCP", "to kcptun"]]
        for contender, values in rates.items():
            middle = median(values)
            row = [NAMES[contender], f"{middle:.1f}", f"{min(values):.1f} to {max(values):.1f}"]
            row.append(f"{middle / 8:.1f}")
            for peer in (PLAIN, KCPTUN):
                theirs = median(rates.get(peer, [0.0]))
                row.append(f"{middle / theirs:.2f}" if theirs else "")
            rows.append(row)
        print(f"\n{render(rows)}")


if __name__ == "__main__":
    main()
