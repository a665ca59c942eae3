"""The rules that keep the code base as it is meant to be; each names the places that break it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ("dsl", "compiler", "runtime", "cli")
HAND_WRITTEN = (*LIBRARY, "tests", "benchmarks", "examples")
MAX_LINES = 400

EXCEPTIONS = {
    "dsl/source.py:Source": {"frozen"},  # caches its line starts in its own dictionary
    "dsl/scope.py:Env": {"slots"},  # the checker's place in the text, and what it has found out so far
    "dsl/scope.py:Context": {"slots"},
    "compiler/interpret.py:ParameterState": {"slots"},  # what a step changes
}
"""What the dataclasses that are no plain values still promise."""

RUNS_TEXT = {
    "compiler/instant.py": {"exec", "compile"},  # the compiler's own output, as a module
}
"""The only places that may execute text; a spec's own text is never that."""

CALLS_THAT_RUN_TEXT = {"eval", "exec", "compile", "sympify", "parse_expr", "lambdify", "__import__"}
WELL_KNOWN = set(sys.stdlib_module_names) | {"torch", "triton", "numpy", "sympy", "click", "lark", "jinja2", "pytest"}


def files(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def nodes_of(*folders: str) -> Iterator[tuple[Path, ast.AST]]:
    for path in files(*folders):
        for node in ast.walk(tree(path)):
            yield path, node


def place(path: Path, node: ast.AST) -> str:
    return f"{short(path)}:{getattr(node, 'lineno', 0)}"


def test_the_scan_sees_the_code() -> None:
    assert {folder: any(files(folder)) for folder in LIBRARY} == dict.fromkeys(LIBRARY, True)


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    suffixes = (".py", ".lark", ".j2", ".hpp", ".cpp")
    lengths = {short(p): len(p.read_text(encoding="utf-8").splitlines()) for p in files(*HAND_WRITTEN, suffixes=suffixes)}
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}


def test_values_that_pass_between_stages_are_frozen_and_slotted() -> None:
    wrong = []
    for path, node in nodes_of("dsl", "compiler"):
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        for decorator in node.decorator_list:
            called = decorator if isinstance(decorator, ast.Call) else None
            name = called.func if called else decorator
            if not (isinstance(name, ast.Name) and name.id == "dataclass"):
                continue
            options = (
                {k.arg for k in called.keywords if isinstance(k.value, ast.Constant) and k.value.value} if called else set()
            )
            wanted = EXCEPTIONS.get(f"{short(path)}:{node.name}", {"frozen", "slots"})
            if not wanted <= options:
                wrong.append(f"{place(path, node)} {node.name}: {', '.join(sorted(wanted - options))}")
    assert wrong == []


def test_ignored_type_errors_say_which() -> None:
    bare = re.compile(r"#\s*type:\s*ignore(?!\[)")
    found = [
        f"{short(path)}:{number}"
        for path in files(*HAND_WRITTEN, "generated", "src")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if bare.search(line)
    ]
    assert found == []


def test_imports_are_absolute() -> None:
    found = [place(p, n) for p, n in nodes_of(*HAND_WRITTEN) if isinstance(n, ast.ImportFrom) and n.level > 0]
    assert found == []


def test_no_mistake_of_a_user_is_an_assert() -> None:
    assert [place(path, node) for path, node in nodes_of(*LIBRARY, "src") if isinstance(node, ast.Assert)] == []


def test_no_text_is_run_but_the_compilers_own() -> None:
    found = []
    for path, node in nodes_of(*LIBRARY, "src"):
        if not isinstance(node, ast.Call):
            continue
        name = (
            node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        )
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        harmless = name == "compile" and isinstance(owner, ast.Name) and owner.id in ("re", "triton")
        if name in CALLS_THAT_RUN_TEXT and not harmless and name not in RUNS_TEXT.get(short(path), set()):
            found.append(f"{place(path, node)} {name}")
    assert found == []


def test_no_switch_hides_in_a_module() -> None:
    assert [place(path, node) for path, node in nodes_of(*LIBRARY, "src") if isinstance(node, ast.Global)] == []


def test_no_module_is_named_like_a_well_known_one() -> None:
    assert [short(path) for path in files(*LIBRARY) if path.stem in WELL_KNOWN] == []


@pytest.mark.parametrize("folder", [*HAND_WRITTEN, "specs", "generated", "docs", "src", "."])
def test_no_file_names_a_place_on_a_machine(folder: str) -> None:
    machine = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w")
    suffixes = (".py", ".md", ".opt", ".toml", ".txt", ".j2", ".lark", ".hpp", ".cpp", ".json", ".csv")
    paths = [p for p in ROOT.iterdir() if p.suffix in suffixes] if folder == "." else list(files(folder, suffixes=suffixes))
    assert [short(path) for path in paths if machine.search(path.read_text(encoding="utf-8"))] == []


def test_every_folder_with_tests_is_collected(pytestconfig: pytest.Config) -> None:
    """Pytest leaves folders of some names out without a word; `dist` was one."""
    tests = ROOT / "tests"
    folders = {part for path in tests.rglob("test_*.py") for part in path.relative_to(tests).parent.parts}
    left_out = [(folder, rule) for folder in folders for rule in pytestconfig.getini("norecursedirs") if fnmatch(folder, rule)]
    assert not left_out and "dist" in folders, left_out
