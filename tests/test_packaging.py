"""The package as it is installed: links, the wheel's contents, versions, what importing it costs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import optc

ROOT = Path(__file__).resolve().parent.parent
LINKS = ("cli", "compiler", "dsl", "generated", "runtime", "specs")
NOT_PACKAGED = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")


@pytest.mark.parametrize("name", LINKS)
def test_every_folder_of_the_package_is_a_relative_link_that_resolves(name: str) -> None:
    link = ROOT / "src" / "optc" / name
    assert link.is_symlink(), "git wrote the link as text: clone with -c core.symlinks=true"
    assert os.readlink(link) == f"../../{name}"
    assert link.resolve() == ROOT / name
    assert any(link.iterdir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from a copy of the tree, so that no `build` folder is left or reused."""
    pytest.importorskip("setuptools", reason="building the wheel needs setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=NOT_PACKAGED)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    built = subprocess.run([*command, str(folder / "tree")], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_holds_every_source_file_of_every_folder(wheel: list[str]) -> None:
    suffixes = {".py", ".lark", ".opt", ".j2", ".hpp", ".cpp", ".css", ".js"}
    expected = {
        f"optc/{path.relative_to(ROOT).as_posix()}"
        for name in LINKS
        for path in (ROOT / name).rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    } | {f"optc/{name}" for name in ("__init__.py", "__main__.py", "dist.py", "groups.py", "schedules.py", "py.typed")}
    packaged = {name for name in wheel if name.startswith("optc/")}
    assert packaged == expected
    assert len([name for name in packaged if name.endswith(".opt")]) == len(list((ROOT / "specs").rglob("*.opt"))) > 0


def test_the_wheel_carries_the_licence_and_the_command(wheel: list[str]) -> None:
    info = [name.split("/", 1)[1] for name in wheel if ".dist-info/" in name]
    assert {"licenses/LICENSE", "entry_points.txt"} <= set(info)


def test_what_can_be_required_is_pinned_exactly() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert re.fullmatch(r"[0-9][0-9a-z.]*", version), line
            pins[name.lower().replace("_", "-")] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    names = {re.split(r"[^A-Za-z0-9_-]", r)[0].lower().replace("_", "-") for r in wanted} - {"optc"}
    assert names <= set(pins)
    assert pins["torch"] == "2.13.0"
    assert pins["triton"] == "3.7.1"


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {"torch", "triton", "sympy", "lark", "jinja2", "numpy"}


def test_importing_optc_imports_nothing_heavy() -> None:
    assert (
        loaded_by("import optc; optc.OptcError, optc.SpecError, optc.__version__, optc.compile, optc.create") & HEAVY == set()
    )


def test_checking_a_spec_imports_neither_pytorch_nor_the_compiler() -> None:
    assert loaded_by("from optc.cli.main import run; assert run(['check', 'adamw']) == 0") & HEAVY <= {"lark", "numpy"}


def test_training_imports_no_compiler() -> None:
    loaded = loaded_by(
        "import optc.generated.adamw\n"
        "assert not [m for m in sys.modules if m.startswith(('optc.compiler', 'optc.cli', 'optc.dsl.parse'))]"
    )
    assert loaded & {"torch", "lark"} == {"torch"}


def test_the_version_is_the_same_everywhere() -> None:
    done = subprocess.run([sys.executable, "-m", "optc", "--version"], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "src")})  # fmt: skip
    assert done.stdout.strip() == f"optc, version {optc.__version__}"


def test_shipped_optimizers_are_found_by_name_in_any_spelling() -> None:
    import torch

    names = optc.available()
    assert "AdamW" in names
    parameter = torch.nn.Parameter(torch.ones(2))
    for spelling in ("AdamW", "adamw", "ADAM_W"):
        assert type(optc.create(spelling, [parameter], lr=0.5)).__name__ == "AdamW"
    with pytest.raises(ValueError, match="did you mean"):
        optc.create("adamx", [parameter])


def test_a_text_is_compiled_to_a_class_that_trains() -> None:
    import torch

    plain = optc.compile("optimizer Plain:\n    hyper: lr = 0.5\n    step: θ <- θ - lr*g\n")
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = plain([parameter], lr=0.25)
    parameter.grad = torch.tensor([4.0, -4.0])
    optimizer.step()
    assert parameter.tolist() == [0.0, 3.0]
