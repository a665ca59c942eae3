"""What is told of storages, against what encoding does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optc.compiler.storage_facts import codes
from optc.dsl.errors import SpecError
from optc.dsl.parse import parse_file
from optc.dsl.source import Source
from optc.dsl.storages import shipped
from optc.runtime.storage import decode, encode
from tests.specs.low_memory import book_of

SOURCE = Source("<shipped>", "")
CODED = [name for name, node in shipped().items() if node.decode is None]


@pytest.mark.parametrize("name", CODED)
def test_numbers_of_all_sizes_are_off_as_is_told(name: str) -> None:
    """Never by more than their decade says, of the largest of the block or of themselves; and some nearly by that."""
    found, book = codes(shipped()[name], SOURCE), book_of(name)
    assert found is not None and found.levels[-1] == 1
    signs = (1.0, -1.0) if found.storage.signed else (1.0,)
    for decade in found.decades:
        worst = 0.0
        for sign in signs:
            x = np.geomspace(decade.low, decade.high, 50 * (book.block - 1)).reshape(50, -1)
            blocks = torch.tensor(np.concatenate([np.ones((50, 1)), sign * x], axis=1), dtype=torch.float32)
            kept = decode(*encode(blocks, book), book, blocks.numel()).view(blocks.shape)
            off = (kept - blocks).abs()[:, 1:].double()
            worst = max(worst, float((off / blocks[:, 1:].abs().double()).max()))
            assert off.max() <= found.storage.error + 2.0**-22
        assert decade.error * 0.98 <= worst <= decade.error * (1 + 1e-5)


@pytest.mark.parametrize("name", CODED)
def test_decades_have_all_levels_above_zero(name: str) -> None:
    found = codes(shipped()[name], SOURCE)
    assert found is not None
    assert sum(decade.levels for decade in found.decades) == sum(level > 0 for level in found.levels)
    assert found.decades[0].high == 1 and found.decades[-1].low == found.smallest
    assert all(a.low == b.high for a, b in zip(found.decades, found.decades[1:], strict=False))


def test_other_storages_and_mistakes() -> None:
    assert codes(shipped()["rowcol"], SOURCE) is None
    source = Source("wrong.opt", "storage q:\n    codes = 17\n    define level(c) = c\n")
    with pytest.raises(SpecError, match=r"wrong\.opt:2:13"):
        codes(parse_file(source).storages[0], source)
