"""However the package is installed, `twistd` finds its plugin and `jetstream` runs.

The dependencies are copied from the environment that runs the tests, and only those that the
wheel asks for: so a requirement that is missing in setup.cfg fails here.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import unittest
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "twisted/plugins/jetstreamproto_plugins.py"
SOURCES = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("jetstreamproto/**/*.[ch]")}
SCHEMAS = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("jetstreamproto/**/*.fbs")}
MODULES = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("jetstreamproto/**/*.py")}
SHOW_FILES = """
import jetstreamproto, twisted.plugins.jetstreamproto_plugins as plugin
print(jetstreamproto.__file__)
print(plugin.__file__)
"""


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What the command printed; if it fails, that is the failure."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= variables
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise AssertionError(f"{words}\nexited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


# --- made once ---------------------------------------------------------------------------
# By functions that remember, because trial does not call setUpClass or setUpModule.


@functools.cache
def workshop() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="jetstream-packaging-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def not_source(folder: str, names: list[str]) -> set[str]:
    """What tools leave in a checkout, and virtual environments."""
    left = shutil.ignore_patterns(
        ".*_cache", ".git", ".hypothesis", "__pycache__", "_trial_temp*", "build", "dist",
        "*.egg-info", "*.pyc", "dropin.cache", "tests.*",
    )(folder, names)  # fmt: skip
    return left | {name for name in names if Path(folder, name, "pyvenv.cfg").exists()}


@functools.cache
def checkout() -> Path:
    """A copy of the source tree, because building writes into it."""
    return Path(shutil.copytree(ROOT, workshop() / "checkout", ignore=not_source))


@functools.cache
def built() -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from that sdist."""
    folder = workshop() / "dist"
    run(sys.executable, "-m", "build", "--outdir", folder, checkout(), cwd=workshop())
    [sdist], [wheel] = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@functools.cache
def required() -> list[Distribution]:
    """The distributions that the wheel asks for, directly or through others."""
    metadata = wheel_text("METADATA").split("\n\n")[0].splitlines()
    prefix = "Requires-Dist: "
    found: dict[tuple[str, frozenset[str]], Distribution] = {}

    def add(requirements: Iterable[str], extras: Iterable[str]) -> None:
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in ["", *extras]):
                continue
            key = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if key not in found:
                found[key] = distribution(requirement.name)
                add(found[key].requires or [], requirement.extras)

    add([line.removeprefix(prefix) for line in metadata if line.startswith(prefix)], [])
    return list({name: found for (name, _), found in found.items()}.values())


def wheel_text(name: str) -> str:
    with zipfile.ZipFile(built()[1]) as wheel:
        [path] = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
        return wheel.read(path).decode()


def environment_with(target: str | Path, *options: str) -> Path:
    """The Python of a new virtual environment in which `pip install` has put the target."""
    folder = Path(tempfile.mkdtemp(prefix="venv-", dir=workshop()))
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    [site] = (folder / "lib").glob("python*/site-packages")
    for dependency in required():
        for file in dependency.files or []:
            source = Path(str(dependency.locate_file(file)))
            if ".." in file.parts or file.suffix == ".pyc" or not source.is_file():
                continue
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, site / file)
    pip = sys.executable, "-m", "pip", "--quiet", "--python", python
    run(*pip, "install", "--no-deps", *options, target, cwd=workshop())
    return python


# --- the tests ---------------------------------------------------------------------------


class ContentTests(unittest.TestCase):
    def test_the_wheel_has_modules_plugin_schemas_and_type_marker(self) -> None:
        with zipfile.ZipFile(built()[1]) as wheel:
            names = set(wheel.namelist())
        wanted = MODULES | SCHEMAS | {PLUGIN, "jetstreamproto/py.typed"}
        self.assertEqual(wanted - names, set())

    def test_the_wheel_has_nothing_else(self) -> None:
        with zipfile.ZipFile(built()[1]) as wheel:
            names = map(PurePosixPath, wheel.namelist())
        others = [
            str(name)
            for name in names
            if name.parts[0] != "jetstreamproto"
            and not name.parts[0].endswith(".dist-info")
            and str(name) != PLUGIN
        ]
        self.assertEqual(others, [])

    def test_the_wheel_carries_its_licence(self) -> None:
        self.assertIn("\nLicense-Expression: MIT\n", wheel_text("METADATA"))
        self.assertEqual(wheel_text("licenses/LICENSE"), (ROOT / "LICENSE").read_text())
        self.assertEqual(wheel_text("licenses/NOTICE"), (ROOT / "NOTICE").read_text())

    def test_the_sdist_has_what_a_packager_needs(self) -> None:
        with tarfile.open(built()[0]) as sdist:
            names = {name.partition("/")[2] for name in sdist.getnames()}
        for name in [
            *SCHEMAS, *SOURCES, PLUGIN, ".ci/run", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
            "NOTICE", "conf/jetstream.service", "jetstreamproto/reactors/_ring/ring.h",
            "pyproject.toml", "setup.cfg", "setup.py", "tests/packaging/__init__.py",
        ]:  # fmt: skip
            with self.subTest(name):
                self.assertIn(name, names)


class InstallTests(unittest.TestCase):
    def check(self, python: Path, home: Path) -> None:
        """Everything runs in this environment, from files under home."""

        def tried(*command: str | Path) -> str:
            return run(*command, cwd=workshop())

        # -P: the current folder must not help to find anything.
        files = tried(python, "-P", "-c", SHOW_FILES).split()
        self.assertEqual([file for file in files if home not in Path(file).parents], [])
        twistd = python, "-P", "-c", "from twisted.scripts.twistd import run; run()"
        commands = [line.split()[:1] for line in tried(*twistd, "--help").splitlines()]
        self.assertIn(["jetstream"], commands)
        self.assertIn("--port", tried(*twistd, "jetstream", "--help"))
        self.assertIn("Usage", tried(python.parent / "jetstream", "--help"))

    def test_wheel(self) -> None:
        python = environment_with(built()[1])
        self.check(python, python.parents[1])

    def test_sdist(self) -> None:
        python = environment_with(built()[0])
        self.check(python, python.parents[1])

    def test_editable_checkout(self) -> None:
        folder = Path(shutil.copytree(checkout(), workshop() / "edited"))
        python = environment_with(folder, "--editable")
        self.check(python, folder)


def extensions(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        return [name for name in opened.namelist() if name.endswith(".so")]


@unittest.skipUnless(sys.platform == "linux", "there is no extension but for Linux")
class ExtensionTests(unittest.TestCase):
    def test_it_is_built_where_there_is_a_compiler(self) -> None:
        if not can_compile():
            self.skipTest("a C compiler and Python's headers are needed")
        # One for every Python from 3.11 on.
        self.assertEqual(extensions(built()[1]), ["jetstreamproto/reactors/_uring.abi3.so"])
        self.assertIn("-cp311-abi3-linux", built()[1].name)

    def test_it_is_left_out_where_there_is_none(self) -> None:
        folder = workshop() / "without"
        build = sys.executable, "-m", "build", "--wheel", "--outdir", folder, checkout()
        said = run(*build, cwd=workshop(), CC="/bin/false")
        [wheel] = folder.glob("*.whl")
        self.assertEqual(extensions(wheel), [])
        self.assertIn("/bin/false", said)  # it was tried


def can_compile() -> bool:
    headers = Path(sysconfig.get_path("include"), "Python.h")
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return headers.exists() and shutil.which(os.environ.get("CC", compiler)) is not None
