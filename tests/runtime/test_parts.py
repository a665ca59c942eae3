"""Where parts of tensors are: boxes of intervals, cuts of placements, rows and columns of boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from optc.runtime import sharding
from optc.runtime.codebook import Codebook
from optc.runtime.parts import Part, Place, box_of, boxes, in_rows, place_of
from optc.runtime.shapes import lines_of, matrices
from optc.runtime.sharding import Shard

shapes = st.lists(st.integers(1, 6), max_size=4).map(tuple)


@given(shapes, st.data())
def test_boxes_are_the_interval_in_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    numel = math.prod(shape)
    start = data.draw(st.integers(0, numel))
    end = data.draw(st.integers(start, numel))
    numbers = torch.arange(numel).view(shape)
    found = boxes(shape, start, end)
    pieces = [numbers[tuple(slice(a, a + n) for a, n in zip(offset, size, strict=True))].reshape(-1) for offset, size in found]
    assert torch.equal(torch.cat([torch.empty(0, dtype=torch.int64), *pieces]), torch.arange(start, end))
    assert len(found) <= max(1, 2 * len(shape) - 1)


@given(shapes, st.data())
def test_a_part_has_its_pieces_where_it_says(shape: tuple[int, ...], data: st.DataObject) -> None:
    p = torch.arange(float(math.prod(shape))).view(shape)
    start = data.draw(st.integers(0, p.numel()))
    end = data.draw(st.integers(start, p.numel()))
    part = Part.of(p.view(-1)[start:end], Place((p.numel(),), (start,), (end - start,), elements=True), shape)
    assert part.shape == part.size() == p.shape and part.here.shape == (end - start,)
    whole = torch.full(shape, -1.0)
    for offset, piece in part.views():
        whole[tuple(slice(a, a + n) for a, n in zip(offset, piece.shape, strict=True))] = piece
    assert torch.equal(whole.view(-1)[start:end], p.view(-1)[start:end]) and int((whole == -1).sum()) == p.numel() - end + start


def test_a_part_is_not_written_by_torch_save(tmp_path: Any) -> None:
    part = Part.of(torch.ones(2), Place((4,), (0,), (2,)), (4,))
    with pytest.raises(TypeError, match=r"optc\.dist\.save"):
        torch.save({"state": part}, tmp_path / "file")


def shard(shape: Sequence[int], cuts: tuple[int, ...] | None, start: int, rows: int) -> Shard:
    offset, size = (start, *[0] * (len(shape) - 1)), (rows, *shape[1:])
    return Shard(torch.Size(shape), offset, size, (), "cpu", cuts)


def test_places_of_codes_scales_and_picked_elements() -> None:
    book = Codebook("four", tuple(x / 15 for x in range(16)), 64)
    own = shard((8, 64), (0, 256), 4, 4)
    assert own.runs == (256, 0, 0) and own.numel == 256
    assert place_of("elem", None, False, 1, own) == Place((8, 64), (4, 0), (4, 64), elements=True)
    assert place_of("elem", book, False, 1, own) == Place((256,), (128,), (128,), flat=True)
    assert place_of("elem", book, True, 1, own) == Place((8,), (4,), (4,), flat=True)
    assert place_of("pick", None, False, 4, own) == Place((128,), (64,), (64,), flat=True)
    assert place_of("row", None, False, 1, own) is None and place_of("tensor", None, False, 1, own) is None


@given(st.integers(1, 9), st.lists(st.integers(1, 4), min_size=1, max_size=2))
def test_cuts_are_where_torch_chunk_cuts(rows: int, ways: list[int]) -> None:
    """One way after the other, and with the later one first where that is how FSDP2 divides what is divided already."""
    for later_first in (False, True):
        numbers = torch.arange(rows * 3).view(rows, 3)
        parts: list[Tensor] = [numbers]
        for count in reversed(ways) if later_first else ways:
            parts = [piece for part in parts for piece in part.chunk(count)]
        expected = tuple(sorted(int(part[0, 0]) for part in parts if part.numel()))
        found = sharding.cuts_of(torch.Size((rows, 3)), [(0, count, later_first and at == 0) for at, count in enumerate(ways)])
        assert found == expected


def test_cuts_of_columns_are_those_of_the_first_row_and_the_second_row() -> None:
    assert sharding.cuts_of(torch.Size((4, 6)), [(1, 2, False)]) == (0, 3, 6)
    assert sharding.cuts_of(torch.Size((4, 6)), [(0, 2, False), (1, 2, False)]) == (0, 3, 6)
    assert sharding.cuts_of(torch.Size((1, 6)), [(1, 2, False)]) == (0, 3)
    assert sharding.cuts_of(torch.Size((2, 4, 6)), [(1, 2, False)]) == (0, 12, 24)
    assert (
        sharding.cuts_of(torch.Size((2, 4, 6)), [(1, 2, False), (2, 3, False)]) is None
    )  # runs of a row, then of the next stack


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), st.data())
def test_runs_are_the_elements_of_a_box(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Parts of any dimensions: what a part has, in its order, and no run begins where no cut is."""
    dims = data.draw(st.lists(st.sampled_from(range(len(shape))), min_size=1, max_size=2, unique=True))
    ways = [data.draw(st.integers(2, 4)) for _ in dims]
    cuts = sharding.cuts_of(torch.Size(shape), [(dim, count, False) for dim, count in zip(dims, ways, strict=True)])
    if cuts is None:
        return
    numbers = torch.arange(math.prod(shape)).view(shape)
    each, row = math.gcd(*cuts, numbers.numel()), max(dims)
    for chosen in product(*map(range, ways)):
        part, offset = numbers, [0] * len(shape)
        for dim, count, at in zip(dims, ways, chosen, strict=True):
            pieces = part.chunk(count, dim)
            offset[dim] = sum(piece.shape[dim] for piece in pieces[:at])
            part = pieces[at] if at < len(pieces) else part.narrow(dim, 0, 0)
        own = Shard(torch.Size(shape), tuple(offset), tuple(part.shape), (), "cpu", cuts)
        (first, length, step), places = own.runs, torch.arange(part.numel())
        found = first + (places // max(length, 1) * step + places % max(length, 1) if step else places)
        assert torch.equal(found, part.reshape(-1))
        begins = {int(n) for n in found[:: length or max(1, part.numel())]}
        inner = math.prod(shape[row:])
        assert {begin % inner for begin in begins} <= {cut % inner for cut in cuts}
        # what has one value for some elements, wherever no part cuts through them
        place = place_of("pick", None, False, each, own)
        assert place is not None
        of_each = numbers.view(-1)[::each]
        assert torch.equal(place.of(of_each), part.reshape(-1)[::each])
        parts = Part.of(place.of(of_each), place, place.whole(numbers))
        assert parts.shape == of_each.shape
        for (at,), piece in parts.views():
            assert torch.equal(of_each[at : at + len(piece)], piece)
        folded, whole = in_rows(parts, shape), in_rows(of_each, shape)
        assert folded.shape == whole.shape and sum(piece.numel() for _, piece in folded.views()) == parts.here.numel()  # type: ignore[attr-defined]
        for at, piece in folded.views():  # type: ignore[attr-defined]
            assert torch.equal(whole[box_of(at, piece.shape)], piece)


@pytest.mark.parametrize("seen", [None, "matrix"])
@pytest.mark.parametrize("shape", [(5,), (4, 6), (2, 4, 3), (2, 2, 3, 2)])
def test_lines_of_a_box_are_those_of_the_whole(shape: tuple[int, ...], seen: Any) -> None:
    """The lines of every box, put together, are all lines; each has the elements that it has in the whole."""
    halves = [[(0, -(-n // 2)), (-(-n // 2), n - -(-n // 2))] for n in shape]
    numbers = np.arange(math.prod(shape)).reshape(shape)
    count, rows, columns = matrices(shape, seen) if len(shape) > 1 else (1, 1, shape[0])
    whole = numbers.reshape(count, rows, columns)
    row_of = np.broadcast_to(np.arange(count * rows).reshape(count, rows, 1), whole.shape).reshape(-1)
    column_of = np.broadcast_to(np.arange(count * columns).reshape(count, 1, columns), whole.shape).reshape(-1)
    for box in product(*halves):
        offset, size = zip(*box, strict=True)
        lines = lines_of(shape, offset, size, seen)
        here = numbers[tuple(slice(a, a + n) for a, n in box)]
        own = matrices(here.shape, seen) if len(shape) > 1 else (1, 1, here.size)
        elements = here.reshape(own)
        assert np.array_equal(lines["row"].reshape(own[0], own[1], 1) + 0 * elements, row_of[elements])
        assert np.array_equal(lines["col"].reshape(own[0], 1, own[2]) + 0 * elements, column_of[elements])
        assert len(lines["matrix"]) == own[0]
