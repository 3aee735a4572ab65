"""The rules of the house that no linter knows: what a file may be called, hold and import."""

from __future__ import annotations

import ast
import unittest
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "jetstreamproto"
PLUGINS = ROOT / "twisted" / "plugins"
MAX_LINES = 499
REACTOR = "twisted.internet.reactor"
VAGUE = {"util", "helper", "common", "manager", "engine"}


def package_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def is_for_type_checkers(node: ast.stmt) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def run_on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement that importing the module executes: all but the bodies of functions."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and is_for_type_checkers(node):
            yield from run_on_import(node.orelse)
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from run_on_import(getattr(node, field, []))
        for part in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            yield from run_on_import(part.body)


def reactor_imports(source: str) -> list[int]:
    """The lines on which importing this source would import, and so install, a reactor."""
    lines = []
    for node in run_on_import(ast.parse(source).body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        if any(name == REACTOR or name.startswith(REACTOR + ".") for name in names):
            lines.append(node.lineno)
    return lines


class ReactorImportTests(unittest.TestCase):
    """Importing the library must leave the choice of reactor to the application."""

    def test_nothing_imports_the_reactor_when_imported(self) -> None:
        files = [*package_files(), *sorted(PLUGINS.glob("*.py"))]
        found = {shown(path): reactor_imports(path.read_text()) for path in files}
        self.assertEqual({name: lines for name, lines in found.items() if lines}, {})

    def test_every_way_to_import_it_is_found(self) -> None:
        for source in [
            "from twisted.internet import reactor",
            "from twisted.internet import defer, reactor as r",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
            "try:\n    from twisted.internet import reactor\nexcept ImportError:\n    pass",
            "if True:\n    pass\nelse:\n    import twisted.internet.reactor",
            "class C:\n    from twisted.internet import reactor",
            "try:\n    pass\nexcept OSError:\n    from twisted.internet import reactor",
            "match 1:\n    case 1:\n        from twisted.internet import reactor",
        ]:
            with self.subTest(source):
                self.assertEqual(len(reactor_imports(source)), 1)

    def test_imports_that_run_later_or_never_are_fine(self) -> None:
        for source in [
            "def main():\n    from twisted.internet import reactor",
            "class C:\n    def f(self):\n        from twisted.internet import reactor",
            "if TYPE_CHECKING:\n    from twisted.internet import reactor",
            "from twisted.internet import defer",
            "from twisted.internet.interfaces import IReactorTime",
        ]:
            with self.subTest(source):
                self.assertEqual(reactor_imports(source), [])


class FileTests(unittest.TestCase):
    def test_there_are_files_to_look_at(self) -> None:
        self.assertTrue(package_files())
        self.assertTrue(list(PLUGINS.glob("*.py")))

    def test_names_say_what_is_inside(self) -> None:
        vague = [
            shown(path)
            for path in PACKAGE.rglob("*")
            if path.stem.strip("_").removesuffix("s") in VAGUE
        ]
        self.assertEqual(vague, [])

    def test_files_are_short(self) -> None:
        lengths = {shown(path): len(path.read_text().splitlines()) for path in package_files()}
        self.assertEqual({name: n for name, n in lengths.items() if n > MAX_LINES}, {})

    def test_every_public_module_says_what_it_is_for(self) -> None:
        silent = []
        for path in package_files():
            names = [part.removesuffix(".py") for part in path.relative_to(ROOT).parts]
            private = any(name.startswith("_") and name != "__init__" for name in names)
            if not private and not ast.get_docstring(ast.parse(path.read_text())):
                silent.append(shown(path))
        self.assertEqual(silent, [])

    def test_twisteds_own_packages_are_not_shadowed(self) -> None:
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])
