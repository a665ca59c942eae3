"""The README's walk-through works as it stands, in an empty folder, with nothing but what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "examples/char_transformer/README.md",
    "docs/distributed.md",
)


def section(title: str) -> str:
    """The text under a heading, up to the next one of its level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"the README has no section {title!r}"
    return found[1]


ALONE = """
import os, warnings
warnings.simplefilter("ignore")
import torch
import optc
torch.distributed.init_process_group("gloo", init_method="file://" + os.path.abspath("store"), rank=0, world_size=1)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
"""
"""A process group of this process alone, for code that is shown for many."""


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A Python process in `folder` that finds the optc of this checkout, and the folder itself as `python` does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src")]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def must(arguments: list[str], folder: Path) -> str:
    """What it prints; fails with what it said where it does not end well."""
    done = run(arguments, folder)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_shipped_optimizer_is_used_as_shown(tmp_path: Path) -> None:
    use, modify, compose = blocks(section("Use one"), "python")
    must(["-c", use], tmp_path)
    must(["-c", modify], tmp_path)
    must(["-c", compose], tmp_path)


def test_groups_and_routing_are_as_shown(tmp_path: Path) -> None:
    group, route = blocks(section("Groups and routing"), "python")
    must(["-c", group], tmp_path)
    must(["-c", route], tmp_path)


def test_schedules_clipping_and_scaling_are_as_shown(tmp_path: Path) -> None:
    (code,) = blocks(section("Schedules, clipping, loss scaling"), "python")
    must(["-c", code], tmp_path)


def test_many_processes_are_as_shown(tmp_path: Path) -> None:
    (code,) = blocks(section("Many processes"), "python")
    must(["-c", ALONE + code], tmp_path)
    assert (tmp_path / "checkpoints" / "latest").is_file()


def test_own_spec_becomes_an_optimizer_as_shown(tmp_path: Path) -> None:
    text = section("Write your own in five minutes")
    (spec,) = blocks(text, "opt")
    (console,) = blocks(text, "console")
    training, compiled = blocks(text, "python")
    (tmp_path / "my.opt").write_text(spec, encoding="utf-8")
    commands = [shlex.split(line.removeprefix("$ ")) for line in console.splitlines()]
    assert [command[:2] for command in commands] == [["optc", "check"], ["optc", "explain"], ["optc", "build"]]
    output = [must(["-m", *command], tmp_path) for command in commands]
    assert "MyOpt" in output[0]
    assert "θ ←" in output[1]
    assert "mypackage/my.py" in output[2]
    must(["-c", training], tmp_path)
    must(["-c", compiled], tmp_path)


def test_own_spec_is_as_short_as_claimed() -> None:
    (spec,) = blocks(section("Write your own in five minutes"), "opt")
    assert len(spec.splitlines()) <= 15


def test_mistake_in_the_own_spec_is_explained(tmp_path: Path) -> None:
    (spec,) = blocks(section("Write your own in five minutes"), "opt")
    (tmp_path / "my.opt").write_text(spec.replace("eps)", "epsilon)"), encoding="utf-8")
    done = run(["-m", "optc", "check", "my.opt"], tmp_path)
    assert done.returncode == 1
    assert "my.opt:12:" in done.stderr
    assert "did you mean" in done.stderr
    assert "Traceback" not in done.stderr


def test_commands_of_run_are_those_shown() -> None:
    script = (ROOT / "run").read_text(encoding="utf-8")
    shown = re.findall(r"^sh run (\w+)", "".join(blocks(README, "sh")), re.MULTILINE)
    assert shown == ["demo", "test"]
    for command in shown:
        assert re.search(rf"^{command}\)$", script, re.MULTILINE), f"`run` does not know {command}"
    (example,) = re.findall(r"(examples/\S+\.py)", script)
    assert (ROOT / example).is_file()


def test_stages_and_commands_named_exist() -> None:
    from optc.cli.main import cli
    from optc.compiler.explain import STAGES

    named = set(re.findall(r"optc (build|check|explain|fmt|list|new)\b", README))
    assert named <= set(cli.commands)
    assert {"plan", "native", "triton", "latex"} <= set(STAGES)


def test_excerpt_is_from_the_generated_file() -> None:
    text = section("What is in a generated file")
    generated = (ROOT / "generated" / "adamw.py").read_text(encoding="utf-8")
    lines = "".join(blocks(text, "text") + blocks(text, "cpp")).splitlines()
    assert len(lines) >= 4
    for line in lines:
        assert line in generated.splitlines(), line


def test_every_shipped_optimizer_is_named_in_readme_and_changelog() -> None:
    from optc.generated import OPTIMIZERS

    spelled = {"HNAdam": "HN-?Adam", "SimplifiedAdEMAMix": "Simplified ?AdEMAMix"}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for name in OPTIMIZERS:
        assert re.search(rf"\b{spelled.get(name, name)}\b", section("Use one")), name
        assert re.search(rf"\b{spelled.get(name, name)}\b", changelog), name
    assert f"| {len(OPTIMIZERS)}, and yours |" in README
    assert f", {len(OPTIMIZERS)} in all: " in changelog


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_exist(document: str) -> None:
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link
    for named in re.findall(r"`((?:dsl|compiler|runtime|tests|benchmarks|examples|docs|cli)/[\w./]*)`", text):
        if "results" not in named:
            assert (ROOT / named).exists(), named


def test_example_with_an_own_optimizer_runs(tmp_path: Path) -> None:
    said = must(
        [str(ROOT / "examples" / "char_transformer" / "train.py"), "--quick", "--steps", "2", "--length", "5"], tmp_path
    )
    assert "MyOptimizer" in said
    assert (tmp_path / "out" / "my_package" / "my_optimizer.py").is_file()


def test_example_on_several_processes_runs(tmp_path: Path) -> None:
    said = must([str(ROOT / "examples" / "char_transformer" / "distributed.py"), "--quick"], tmp_path)
    (apart,) = re.findall(r"losses differ by (\S+) at most", said)
    assert float(apart) < 1e-5 and "two processes go on from save-000004" in said
    assert (tmp_path / "out" / "distributed" / "losses.png").stat().st_size > 10_000


def test_example_digits_runs_and_draws(tmp_path: Path) -> None:
    said = must([str(ROOT / "examples" / "digits.py"), "--epochs", "1"], tmp_path)
    (apart,) = re.findall(r"^optc AdamW .* (\S+)$", said, re.MULTILINE)
    assert float(apart) < 1e-5
    assert (tmp_path / "out" / "digits.png").stat().st_size > 10_000
