"""docs/distributed.md: its code runs, what it prints is printed."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.test_readme import ALONE, blocks, must

TEXT = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")

MORE = """
from torch.nn.parallel import DistributedDataParallel

def make_model():
    return model

def loss(model, batch):
    return model(batch).square().mean()

batches = [torch.randn(3, 4)] * 2
"""


def test_the_python_code_runs(tmp_path: Path) -> None:
    sharded, zero1, compared = blocks(TEXT, "python")
    assert "dist.init_process_group()" in sharded
    must(["-c", ALONE + MORE + sharded.replace("dist.init_process_group()", "")], tmp_path)
    assert (tmp_path / "checkpoints" / "latest").is_file()
    (tmp_path / "store").unlink(missing_ok=True)
    must(["-c", ALONE + MORE + zero1 + compared + "optimizer.step()"], tmp_path)


def test_explain_prints_what_is_shown(tmp_path: Path) -> None:
    (console,) = blocks(TEXT, "console")
    command, _, expected = console.partition("\n")
    assert must(["-m", *command.removeprefix("$ ").split()], tmp_path).rstrip() == expected.rstrip()


def test_everything_that_is_named_is_there() -> None:
    import optc

    named = set(re.findall(r"optc\.dist\.(\w+)", TEXT))
    assert named == set(optc.dist.__all__) - {"Loaded", "latest"}
