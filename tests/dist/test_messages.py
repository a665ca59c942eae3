"""Nothing is sent that is not counted, and over two-dimensional meshes, too, what is sent is what was told."""

from __future__ import annotations

import pytest

from tests.dist import messages
from tests.dist.communication import sent_and_told
from tests.dist.crew import Crew
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
