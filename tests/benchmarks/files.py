"""A large file over loopback: ours beside scp and rsync over ssh; with --wan, over emulated links.

Loopback: whole commands are timed, from the start of the process to its end, start-up, key exchange
and the receiver's confirmation included. Our server is `twistd jetstream --files`, that of the
others OpenSSH's `sshd` with keys of its own, once with the ciphers it chooses and once with
AES-128-GCM. Random bytes, on one file system (--folder), so nothing is gained by compression.

--wan is `jetstream send` over UDP; the clock runs from the opening of the channel until the
receiver has checked the digest. Needs root on Linux, as tests.benchmarks.wan.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep

from jetstreamproto.testing.netns import missing
from jetstreamproto.testing.wan import SERVER_ADDRESS
from tests.benchmarks import arguments
from tests.benchmarks.links import Link, link_argument
from tests.benchmarks.runner import OURS, Figures, Results, note
from tests.benchmarks.table import NAMES, Column
from tests.benchmarks.wan import TARGETS
from tests.ports import free_port

_ROOT = Path(__file__).resolve().parents[2]
_SSHD = "/usr/sbin/sshd"
_GET, _UDP = "jetstream-get", "jetstream-udp"
_AES = "aes128-gcm@openssh.com"
_OURS = (OURS, _GET, _UDP)
_PEERS = ("scp", "scp-aes", "rsync", "rsync-aes")
_STARTING = 30.0
_LONGEST = 600.0
COLUMNS = (Column("MB_per_s", "MB/s", ranged=True, compared=True), Column("seconds", "s", "{:.2f}"))
WAN_COLUMNS = (
    Column("Mbit_per_s", "Mbit/s", "{:.1f}", ranged=True),
    Column("target", "target", "{:.0f}"),
    Column("seconds", "s", "{:.1f}"),
)
NAMES |= {
    _GET: "JetStreamProto, get",
    _UDP: "JetStreamProto, UDP",
    "scp": "scp",
    "scp-aes": "scp -c aes128-gcm",
    "rsync": "rsync over ssh",
    "rsync-aes": "rsync over ssh -c aes128-gcm",
}


class Failed(Exception):
    """A run that gave no result."""


@contextmanager
def server(words: Sequence[str], port: int, environ: dict[str, str]) -> Iterator[None]:
    """A server process, from when its port can be connected to until the end of the block."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        process = subprocess.Popen(words, env=environ, cwd=_ROOT, stdout=log, stderr=log)
        stack.callback(_end, process)
        end = monotonic() + _STARTING
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or monotonic() > end:
                    log.seek(0)
                    raise Failed(f"{words[0]}: {log.read().decode()}") from None
                sleep(0.05)
        yield


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Ours:
    """`twistd jetstream --files`, and commands to it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "ours"
        self.root.mkdir()
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "JETSTREAM_HOME": str(folder / "state"),
        }

    def serve(self, port: int, *options: str) -> list[str]:
        run = "from twisted.scripts.twistd import run; run()"
        words = [sys.executable, "-c", run, "-n", "--pidfile=", "jetstream"]
        return [*words, "--port", str(port), "--files", f"{self.root}:rw", *options]

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "jetstreamproto.cli", *words, "--quiet"]


class Ssh:
    """An `sshd` with keys of its own, and what its clients are told."""

    def __init__(self, folder: Path, port: int) -> None:
        self.root = folder / "ssh"
        self.root.mkdir()
        for name in ("host", "user"):
            key = str(folder / name)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        Path("/run/sshd").mkdir(exist_ok=True)  # where it wants to be chrooted to
        config = folder / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nUsePAM no\n"
            "PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        )
        self.words = [_SSHD, "-D", "-e", "-f", str(config)]
        options = ["-F", "none", "-i", str(folder / "user"), "-o", "StrictHostKeyChecking=no"]
        self._options = [*options, "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        self._port = port

    def command(self, contender: str, source: Path) -> list[str]:
        program, _, cipher = contender.partition("-")
        options = [*self._options, *(["-c", _AES] if cipher else [])]
        target = f"127.0.0.1:{self.root / 'big'}"
        if program == "scp":
            return ["scp", "-q", "-P", str(self._port), *options, str(source), target]
        shell = " ".join(["ssh", "-p", str(self._port), *options])
        return ["rsync", "-e", shell, str(source), target]


def timed(words: list[str], environ: dict[str, str]) -> float:
    """Seconds that the command takes. Raises `Failed`."""
    start = monotonic()
    done = subprocess.run(
        words, env=environ, cwd=_ROOT, capture_output=True, text=True, timeout=_LONGEST
    )
    if done.returncode:
        raise Failed(f"{words}: {done.stderr}")
    return monotonic() - start


def loopback(chosen: argparse.Namespace, results: Results) -> None:
    """Every contender in its turn."""
    size = round(chosen.megabytes * 1e6)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=chosen.folder)))
        source = folder / "big"
        with source.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - start)))
        ours, port = Ours(folder), free_port()
        stack.enter_context(server(ours.serve(port), port, ours.environ))
        address = f"127.0.0.1:{port}"
        ssh = Ssh(folder, free_port()) if any(map(_uses_ssh, chosen.contenders)) else None
        if ssh is not None:
            stack.enter_context(server(ssh.words, ssh._port, dict(os.environ)))
        for number in range(1, chosen.rounds + 1):
            for contender in chosen.contenders:
                arrived = (ssh.root if ssh and _uses_ssh(contender) else ours.root) / "big"
                if contender == _GET:
                    shutil.copy2(source, arrived)
                    arrived = folder / "got"
                    words = ours.command("get", f"{address}/big", str(arrived))
                elif contender in _OURS:
                    words = ours.command("send", str(source), address)
                if contender in _OURS:
                    words += ["--transport", "udp" if contender == _UDP else "tcp"]
                else:
                    assert ssh is not None
                    words = ssh.command(contender, source)
                _warm(folder, size)
                seconds = timed(words, ours.environ)
                if arrived.stat().st_size != size:
                    raise Failed(f"{contender}: not all has arrived")
                for file_name in (arrived, ours.root / "big"):
                    file_name.unlink(missing_ok=True)
                figures = {"MB_per_s": size / seconds / 1e6, "seconds": seconds}
                results.add(contender, f"{chosen.megabytes:g} MB", figures)
                note(f"round {number}: {contender}: {figures['MB_per_s']:.0f} MB/s")


def _warm(folder: Path, size: int) -> None:
    """Leave the kernel memory of that size which it has used just now.

    A virtual machine may have to ask its host for memory, which takes longer than to copy a file,
    and would be paid by whoever comes first.
    """
    scratch, block = folder / "scratch", bytes(1 << 20)
    with scratch.open("wb", buffering=0) as file:
        for _ in range(0, size, len(block)):
            file.write(block)
    scratch.unlink()


def _uses_ssh(contender: str) -> bool:
    return contender in _PEERS


def wan(chosen: argparse.Namespace, results: Results) -> None:
    """`jetstream send` over every link."""
    for seed in range(1, chosen.rounds + 1):
        for text in chosen.links:
            link = Link.parse(text, chosen.queue_ms)
            figures = _send_over(link, seed, chosen)
            if text in TARGETS and chosen.megabytes == 30:
                figures["target"] = TARGETS[text]
            results.add(_UDP, str(link), figures)
            note(f"seed {seed}: {link}: {figures['Mbit_per_s']:.1f} Mbit/s")


def _send_over(link: Link, seed: int, chosen: argparse.Namespace) -> Figures:
    size = round(chosen.megabytes * 1e6)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        source = folder / "big"
        source.write_bytes(os.urandom(size))
        ours = Ours(folder)
        server_words = ours.serve(9000, "--interface", SERVER_ADDRESS, "--allow-anonymous")
        target = f"{SERVER_ADDRESS}:9000"
        client = ours.command("send", str(source), target, "--transport", "udp", "--json")
        words = [sys.executable, "-m", "jetstreamproto.testing.wan", *link.options()]
        words += [f"--seed={seed}", f"--limit={chosen.limit:g}", "--wait=3"]
        words += ["--", *server_words, ":::", *client]
        done = subprocess.run(words, cwd=_ROOT, env=ours.environ, capture_output=True, text=True)
        try:
            lines = done.stdout.splitlines()  # the server's log is among them
            report = json.loads(next(line for line in lines if line.startswith("{")))
            seconds = report["seconds"]
        except (ValueError, LookupError, StopIteration):
            raise Failed(f"{link}: {done.stdout}{done.stderr}") from None
        if (ours.root / "big").read_bytes() != source.read_bytes():
            raise Failed(f"{link}: something else has arrived")
        return {"Mbit_per_s": 8 * size / seconds / 1e6, "seconds": seconds}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="files", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="(5; with --wan the seeds 1 to N)")
    parser.add_argument("--megabytes", type=float, help="of the file (1000; with --wan 30)")
    parser.add_argument("--contenders", nargs="+", choices=(*_OURS, *_PEERS))
    parser.add_argument("--folder", help="where the files are (that of temporary files)")
    parser.add_argument("--wan", action="store_true", help="over emulated links, with UDP")
    parser.add_argument("--links", nargs="+", type=link_argument, default=list(TARGETS))
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of a --wan run (60)")
    parser.add_argument("--queue-ms", type=float, default=50.0, help="of the links (50)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _contenders() -> list[str]:
    there = {"scp": ("scp", _SSHD), "rsync": ("rsync", "ssh", _SSHD)}
    found = list(_OURS)
    for peer in _PEERS:
        lacking = [word for word in there[peer.partition("-")[0]] if shutil.which(word) is None]
        if lacking:
            note(f"{peer} is skipped: there is no {', '.join(lacking)}")
        else:
            found.append(peer)
    return found


def main() -> None:
    parser = _arguments()
    chosen = parser.parse_args()
    chosen.megabytes = chosen.megabytes or (30.0 if chosen.wan else 1000.0)
    results = Results()
    try:
        if chosen.wan:
            if trouble := missing():
                parser.exit(2, f"{parser.prog}: {trouble}\n")
            wan(chosen, results)
        else:
            chosen.contenders = chosen.contenders or _contenders()
            loopback(chosen, results)
    except Failed as failure:
        parser.exit(1, f"{parser.prog}: {failure}\n")
    arguments.show("files", chosen, results, lambda _: WAN_COLUMNS if chosen.wan else COLUMNS)


if __name__ == "__main__":
    main()
