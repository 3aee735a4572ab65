"""`jetstream echo` as a pipe: files, pipes, slow and absent readers, a server that dies."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import pty
import select
import signal
import subprocess
import tempfile
import threading
from typing import IO

from tests.loopback.command import DEADLINE, CliCase, Server, shared_server

SIZE = 100_000_000
MEMORY = 40_000_000
"""What that may add to the memory of the command: windows and buffers, not what passes through."""
CHUNK = 1 << 16


def peak_memory(process: subprocess.Popen[bytes]) -> int:
    """The most memory that a living process has had, in bytes."""
    with open(f"/proc/{process.pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """So many bytes, each of which comes in time."""
    pieces = []
    while size:
        assert select.select([stream], [], [], DEADLINE)[0], f"{size} bytes are missing"
        piece = os.read(stream.fileno(), min(size, CHUNK))
        assert piece, f"{size} bytes are missing at the end"
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


@functools.cache
def big_file() -> tuple[str, str]:
    """The path and digest of a file that no compression makes smaller, there until the end."""
    block = os.urandom(SIZE // 10)
    digest = hashlib.sha256()
    descriptor, path = tempfile.mkstemp()
    atexit.register(os.unlink, path)
    with open(descriptor, "wb") as file:
        for _ in range(10):
            file.write(block)
            digest.update(block)
    return path, digest.hexdigest()


class EchoCase(CliCase):
    def setUp(self) -> None:
        super().setUp()
        path, self.digest = big_file()
        self.file = self.enterContext(open(path, "rb"))

    def arguments(self, server: Server) -> tuple[str, ...]:
        return ("echo", server.address, "--pin", server.fingerprint)

    def started(self, server: Server, **options: object) -> subprocess.Popen[bytes]:
        return self.start(*self.arguments(server), **options)

    def feed(self, process: subprocess.Popen[bytes]) -> threading.Thread:
        """Write the file to the command's standard input in the background, and leave it open."""

        def write() -> None:
            assert process.stdin is not None
            while piece := self.file.read(CHUNK):
                process.stdin.write(piece)
            process.stdin.flush()

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        return thread


class EchoTests(EchoCase):
    def test_nothing_at_all(self) -> None:
        status, out, err = self.run_command(*self.arguments(shared_server()))
        self.assertEqual((status, out, err), (0, b"", ""))

    def test_file_to_file(self) -> None:
        with tempfile.TemporaryFile() as back:
            process = self.started(shared_server(), stdin=self.file, stdout=back)
            _, err = process.communicate(timeout=DEADLINE)
            self.assertEqual((process.returncode, self.checked(err)), (0, ""))
            back.seek(0)
            self.assertEqual(hashlib.file_digest(back, "sha256").hexdigest(), self.digest)

    def test_pipe_to_pipe_in_constant_memory(self) -> None:
        process = self.started(shared_server())
        assert process.stdin is not None and process.stdout is not None
        os.write(process.stdin.fileno(), b"x")
        self.assertEqual(read_exactly(process.stdout, 1), b"x")
        before = peak_memory(process)
        feeder = self.feed(process)
        digest = hashlib.sha256()
        for start in range(0, SIZE, CHUNK):
            digest.update(read_exactly(process.stdout, min(CHUNK, SIZE - start)))
        self.assertEqual(digest.hexdigest(), self.digest)
        self.assertLess(peak_memory(process) - before, MEMORY)
        feeder.join(DEADLINE)
        out, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, out, self.checked(err)), (0, b"", ""))

    def test_a_slow_reader_slows_the_writer(self) -> None:
        process = self.started(shared_server())
        assert process.stdin is not None and process.stdout is not None
        os.write(process.stdin.fileno(), b"x")
        read_exactly(process.stdout, 1)
        before = peak_memory(process)
        os.set_blocking(process.stdin.fileno(), False)
        taken = 0
        while taken < SIZE and select.select([], [process.stdin], [], 1)[1]:
            taken += os.write(process.stdin.fileno(), self.file.read(4096))
        self.assertLess(taken, SIZE)  # it did not take it all, with nobody reading
        self.assertLess(peak_memory(process) - before, MEMORY)
        self.file.seek(0)
        self.assertEqual(read_exactly(process.stdout, taken), self.file.read(taken))
        process.stdin.close()
        self.assertEqual(process.wait(DEADLINE), 0)

    def test_files_at_their_ends_and_beyond(self) -> None:
        for given, status, message in [
            ("/dev/null", 0, ""),
            ("/proc/self/mem", 1, "standard input"),
        ]:
            with open(given, "rb") as stdin:
                process = self.started(shared_server(), stdin=stdin)
                out, err = process.communicate(timeout=DEADLINE)
            self.assertEqual((process.returncode, out), (status, b""))
            self.assertIn(message, self.checked(err))

    def test_a_line_typed_on_a_terminal_comes_back_at_once(self) -> None:
        person, terminal = pty.openpty()
        self.addCleanup(os.close, person)
        process = self.started(shared_server(), stdin=terminal)
        os.close(terminal)
        assert process.stdout is not None
        for line in (b"first\n", b"second\n"):
            os.write(person, line)
            self.assertEqual(read_exactly(process.stdout, len(line)), line)
        os.write(person, b"\x04")
        _, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, self.checked(err)), (0, ""))


class BrokenEchoTests(EchoCase):
    def test_a_reader_that_goes_away(self) -> None:
        process = self.started(shared_server(), stdin=self.file)
        assert process.stdout is not None and process.stderr is not None
        read_exactly(process.stdout, 10)
        process.stdout.close()
        self.assertEqual(process.wait(DEADLINE), -signal.SIGPIPE)
        self.assertEqual(process.stderr.read(), b"")

    def test_a_full_disk(self) -> None:
        with open("/dev/full", "wb") as full:
            process = self.started(shared_server(), stdin=self.file, stdout=full)
            _, err = process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, 1)
        expected = "jetstream: standard output: No space left on device\n"
        self.assertEqual(self.checked(err), expected)

    def test_a_server_that_is_killed(self) -> None:
        server = self.server()
        process = self.started(server)  # whose input stays open
        assert process.stdin is not None and process.stdout is not None
        os.write(process.stdin.fileno(), b"x")
        read_exactly(process.stdout, 1)
        server.process.kill()
        self.assertEqual(process.wait(DEADLINE), 1)
        assert process.stderr is not None
        err = self.checked(process.stderr.read())
        self.assertRegex(err, r"^jetstream: the connection broke .*\n$")

    def test_a_server_that_is_killed_in_full_flow(self) -> None:
        server = self.server()
        process = self.started(server, stdin=self.file)
        assert process.stdout is not None
        read_exactly(process.stdout, SIZE // 10)
        server.process.kill()
        _, err = process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, 1)
        self.assertRegex(self.checked(err), r"^jetstream: the connection broke .*\n$")

    def test_ctrl_c_while_waiting_for_input(self) -> None:
        process = self.started(shared_server())
        assert process.stdin is not None and process.stdout is not None
        os.write(process.stdin.fileno(), b"x")
        read_exactly(process.stdout, 1)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(DEADLINE), -signal.SIGINT)
        assert process.stderr is not None
        self.assertEqual(process.stderr.read(), b"")

    def test_ctrl_c_while_nobody_reads(self) -> None:
        process = self.started(shared_server(), stdin=self.file)
        assert process.stdout is not None
        read_exactly(process.stdout, 1)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(DEADLINE), -signal.SIGINT)

    def test_closed_standard_streams(self) -> None:
        for descriptor, name in ((0, "input"), (1, "output")):
            process = self.started(
                shared_server(), preexec_fn=lambda descriptor=descriptor: os.close(descriptor)
            )
            self.assertEqual(process.wait(DEADLINE), 1)
            assert process.stderr is not None
            expected = f"jetstream: standard {name} is closed\n".encode()
            self.assertEqual(process.stderr.read(), expected)

    def test_a_server_without_the_service(self) -> None:
        server = self.server(empty=True)
        status, out, err = self.run_command(*self.arguments(server))
        self.assertEqual((status, out), (1, b""))
        self.assertRegex(err, "^jetstream: the server refused: no service 'echo'.*\\n$")
