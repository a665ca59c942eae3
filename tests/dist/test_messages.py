"""Nothing is sent that is not counted, and over two-dimensional meshes, too, what is sent is what was told."""

from __future__ import annotations

import pytest

from tests.dist import messages
from tests.dist.communication import sent_and_told
from tests.dist.crew import Crew
from tests.dist.layouts import SHAPES
from tests.dist.test_parity import SAMPLE

SEEN = {
    "nothing": [],
    "all_reduce": [("all_reduce", 96)],
    "all_reduce, later": [("all_reduce", 96)],
    "all_gather": [("all_gather", 96)],
    "all_gather_single": [("all_gather_single", 192)],
    "reduce_scatter": [("reduce_scatter", 48)],
    "all_to_all_single": [("all_to_all_single", 96)],
    "broadcast": [("broadcast", 96)],
    "broadcast, imported": [("c10d.broadcast_", 96)],
    "objects": [("broadcast_object_list", 0), ("all_gather_object", 0)],
    "the whole of a part": [("_c10d_functional.all_gather_into_tensor", 48)],
    "parts that are moved": [("_c10d_functional.all_gather_into_tensor", 48)],
    "the norm of a part": [("_c10d_functional.all_reduce", 4)],
}


def test_every_way_to_send_is_seen(two: Crew) -> None:
    assert two.run(messages.seen) == [SEEN] * 2


@pytest.mark.parametrize("layout", ["hsdp", "columns", "grid", "strided"])
def test_optimizers_send_what_they_tell_on_any_mesh(four: Crew, layout: str) -> None:
    names = [*SAMPLE, "SM3"]
    for found in four.run(sent_and_told, names, layout, 4):
        assert list(found) == names
        for name, told in found.items():
            assert told["sent"] == told["told"], (name, told)
        assert sum(bool(told["sent"]) for told in found.values()) >= 8


@pytest.mark.parametrize(("layout", "most"), [("hsdp", 1), ("columns", 1), ("grid", 3), ("strided", 3)])
def test_messages_are_as_many_for_any_number_of_parameters(four: Crew, layout: str, most: int) -> None:
    """In an exchange one for all that are divided along the same dimensions of the mesh, along each of these dimensions."""
    names = ["LAMB", "Adafactor", "CAME", "Prodigy"]
    few, many = (four.run(sent_and_told, names, layout, 4, SHAPES * times)[0] for times in (1, 3))
    for name in names:
        assert 0 < len(few[name]["sent"]) == len(many[name]["sent"]) <= most * few[name]["exchanges"], name
