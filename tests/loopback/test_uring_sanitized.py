"""The C code under AddressSanitizer and UndefinedBehaviorSanitizer, in the tests of the reactor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import unittest
from pathlib import Path

from jetstreamproto.reactors.uring import why_not

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "jetstreamproto" / "reactors" / "_ring").glob("*.c"))
TESTS = (
    "tests.unit.reactors.test_ring",
    *(
        f"tests.loopback.test_uring.{name}"
        for name in ("PortTests", "ConnectionTests", "ClientTests", "LifeTests")
    ),
    "tests.loopback.test_uring_datagrams",
)
COMPILER = os.environ.get("CC", "gcc")
FLAGS = (
    *("-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-shared", "-fPIC"),
    *("-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
)


def library(name: str) -> str | None:
    """Where the compiler has this library of a sanitizer; None if it has not."""
    if shutil.which(COMPILER) is None:
        return None
    found = subprocess.run(
        [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return found if os.path.isabs(found) else None


class SanitizerTests(unittest.TestCase):
    def test_the_reactor_s_tests(self) -> None:
        if reason := why_not():
            self.skipTest(f"no io_uring: {reason}")
        libraries = [library("libasan.so"), library("libubsan.so")]
        headers = sysconfig.get_path("include")
        if not all(libraries) or not Path(headers, "Python.h").exists():
            self.skipTest("a compiler with its sanitizers, and Python's headers, are needed")
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder, "_uring.abi3.so")
            sources = map(str, SOURCES)
            command = [COMPILER, *FLAGS, f"-I{headers}", *sources, "-o", str(built), "-lm"]
            compiled = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(compiled.returncode, 0, compiled.stderr)
            done = subprocess.run(
                [sys.executable, "-m", "tests.loopback.sanitized", str(built), *TESTS],
                cwd=ROOT,
                env=os.environ
                | {
                    "LD_PRELOAD": " ".join(filter(None, libraries)),
                    # Python itself does not give back everything; leaks are for test_nothing_leaks.
                    "ASAN_OPTIONS": "detect_leaks=0",
                    "UBSAN_OPTIONS": "print_stacktrace=1",
                    "PYTHONMALLOC": "malloc",
                },
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        self.assertEqual(done.returncode, 0, done.stderr[-8000:])
        self.assertIn("OK", done.stderr)


if __name__ == "__main__":
    unittest.main()
