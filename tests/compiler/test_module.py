"""Generated modules: deterministic, honest about their origin, free of the compiler, closed to what a spec's author types."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optc.compiler.compose.expand import expand
from optc.compiler.compose.library import named, shipped
from optc.compiler.digest import compiler_digest, text_digest
from optc.compiler.module_parts import edited_by_hand
from optc.compiler.pipeline import compile_source
from optc.compiler.write import why_stale, write_module
from optc.dsl.read import read
from optc.dsl.source import Source
from tests.references import SPECS as NAMES

ROOT = Path(__file__).resolve().parents[2]
ALLOWED_IMPORTS = {"__future__", "collections.abc", "typing", "torch", "torch.optim.optimizer", "triton.language"}

HOSTILE = (
    """optimizer Hostile:
    "a doc \\\\ with """
    + "''' and `ticks` {{ 7*7 }} {% raw %}"
    + '''"
    cite arXiv:1 """ + __import__("os").system("false") + """
    note "ends with a backslash \\\\"
    note "line ' quote {{ config }} \\\\N{BULLET} \\\\x41"
    hyper:
        lr = 0.1 in [0, inf) "text \\\\ {{ x }}"
        kind = "a" in {"a", "b; import os"}
        require lr < 10 or kind == "b; import os", "message \\\\ {% endraw %}"
    step:
        print = g          # names of Python, C++ and Triton are names like others
        tl = 2*print
        double = where(kind == "a", tl, print)
        torch = double
        ieee = torch
        sign_ = sign(ieee)
        θ <- θ - lr*sign_
'''
)


def compiled(name: str) -> str:
    return compile_source(read(ROOT / "specs" / f"{name}.opt")).module


def test_same_text_in_any_process() -> None:
    """Neither hash order, nor the working directory, nor the way the path was typed shows in the text."""
    script = (
        "import sys; from optc.compiler.pipeline import compile_source; from optc.dsl.read import read;"
        "sys.stdout.write(compile_source(read(sys.argv[1])).module)"
    )
    texts = set()
    for seed, cwd, path in (("1", ROOT, "specs/adam/adabelief.opt"), ("2", ROOT / "tests", "../specs/adam/adabelief.opt")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-c", script, path]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
        texts.add(done.stdout)
    assert texts == {compiled("adam/adabelief")}


def test_header_tells_what_it_was_made_from() -> None:
    text = compiled("adam/adamw")
    source = (ROOT / "specs/adam/adamw.opt").read_text(encoding="utf-8")
    assert f"sha256 {text_digest(source)}" in text
    assert f"sha256 {compiler_digest()}" in text


def test_any_edit_is_noticed(tmp_path: Path) -> None:
    source = read(ROOT / "specs/adam/adamw.opt")
    compilation = compile_source(source)
    path = write_module(compilation.module_name, compilation.module, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert not edited_by_hand(text)
    assert why_stale(path, source) is None
    edits = [
        ("m.mul_(beta1)", "m.mul_(beta2)"),
        ("betas: decay", "betas: Decay"),
        ("arXiv:1711.05101", "arXiv:1711.05102"),
        ("    step:", "    Step:"),
    ]
    for old, new in edits:
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        assert why_stale(path, source) == "edited by hand"
    path.write_text(text, encoding="utf-8")
    assert why_stale(path, Source(source.name, source.text + "# new\n")) == "built from another version of its spec"


def test_what_is_typed_stays_data() -> None:
    """Texts, choices and names of a spec cannot leave their place in the generated code."""
    compilation = compile_source(Source("hostile.opt", HOSTILE))
    tree = ast.parse(compilation.module)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"__import__", "eval", "exec", "system", "open", "print"}
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {m for m in imported if m} <= ALLOWED_IMPORTS | {m for m in imported if m and m.startswith("optc.runtime")} | {
        "triton.language.extra"
    }
    documented = next(n for n in tree.body if isinstance(n, ast.ClassDef))
    assert "{{ 7*7 }}" in (ast.get_docstring(documented) or "")


@pytest.mark.parametrize("name", NAMES)
def test_imports_only_what_training_needs(name: str) -> None:
    tree = ast.parse(compiled(name))
    imported = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {m for m in imported if not m.startswith("optc.runtime")} <= ALLOWED_IMPORTS | {"triton.language.extra"}


def test_compiler_and_triton_stay_out_of_training() -> None:
    """A generated optimizer steps on the CPU without the compiler's libraries or Triton being imported."""
    script = (
        "import sys, torch; from {} import AdamW; p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3);"
        "AdamW([p]{}).step();"
        "print(*sorted({{'lark', 'sympy', 'jinja2', 'triton', 'mpmath'}} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    brought: list[set[str]] = []
    for module, arguments in (("torch.optim", ""), ("optc.generated", ", backend='torch'")):
        command = [sys.executable, "-c", script.format(module, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        brought.append(set(done.stdout.split()))
    by_torch, by_optc = brought
    assert by_optc <= by_torch
    assert "lark" not in by_torch


def test_shipped_modules_are_up_to_date() -> None:
    stale = [why_stale(ROOT / "generated" / f"{name}.py", expand(named(path)).source) for name, path in shipped().items()]
    assert stale and not any(stale)
