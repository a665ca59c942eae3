"""What the pages of storages tell users to write."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytest.importorskip("markdown_it", reason="the site needs the extra `docs`")
pytest.importorskip("matplotlib", reason="the site needs the extra `docs`")

import optc
from optc.compiler.site.pages import usage_of_storage
from optc.compiler.site.storages import storage

STORAGES = sorted((Path(__file__).resolve().parents[2] / "specs" / "storages").glob("*.opt"))


@pytest.mark.parametrize("path", STORAGES, ids=lambda path: path.stem)
def test_a_storage_can_be_used_as_its_page_says(path: Path) -> None:
    usage = usage_of_storage(storage(path.stem, path, {}))
    if path.stem == "sign1":  # for states that no shipped spec has
        body = usage.partition("\n")[2].replace("x > 0", "g > 0").replace("\n", "\n    ")
        assert optc.compile(f"optimizer X:\n    hyper: lr = 0.1 in [0, inf)\n    {body}\n        θ <- θ - lr*s\n")
        return
    clause = re.search(r"storing=({.*})", usage)
    assert clause is not None and optc.compile("adamw", storing=ast.literal_eval(clause[1]))
