"""Messages and bytes: what is sent is what was told, does not depend on how many tensors there are, and is needed."""

from __future__ import annotations

import pytest

import optc
from tests.dist.communication import joined_where_is_shard_says, parameters_sent, sent_and_told, state_bytes, without_joining
from tests.dist.crew import Crew
from tests.dist.test_parity import SAMPLE, SCALES, silent

NAMES = [name for name in optc.available() if name not in SCALES]
MANY = [(12, 4)] * 40 + [(12,)] * 40


@pytest.mark.parametrize("layout", ["fsdp", "zero1"])
def test_every_optimizer_sends_what_it_tells(two: Crew, layout: str) -> None:
    for found in two.run(sent_and_told, NAMES, layout, 2):
        for name, messages in found.items():
            assert messages["sent"] == messages["told"], name
            assert bool(messages["sent"]) != silent(name), name
            assert len(messages["sent"]) == messages["exchanges"], name  # one collective for all that a pass has measured
            if layout == "fsdp":  # there a 0-dim parameter is whole on all processes
                assert messages["sent"] == messages["explained"], name
                assert not messages["others"], name
            else:
                assert [kind for kind, _ in messages["others"]] == ["all_gather_single"], name


def test_as_many_messages_for_many_tensors_as_for_few(two: Crew) -> None:
    names = [name for name in SAMPLE if name not in SCALES]
    few = two.run(sent_and_told, names, "fsdp", 2, MANY[:1] + MANY[-1:])[0]
    many = two.run(sent_and_told, names, "fsdp", 2, MANY)[0]
    for name in names:
        assert len(few[name]["sent"]) == len(many[name]["sent"]), name
        assert sum(n for _, n in many[name]["sent"]) == 40 * sum(n for _, n in few[name]["sent"]), name


@pytest.mark.parametrize(("which", "names"), [("sum", ["LAMB", "Adafactor", "RACS", "ApolloDQN"]), ("largest", ["Gravity", "SM3", "Rose"])])
def test_no_reduction_is_superfluous(two: Crew, which: str, names: list[str]) -> None:
    """A fault that must be seen: each process goes on with what it has measured of its own part."""
    for found in two.run(without_joining, names, "fsdp", 2, which):
        assert all(isinstance(apart, float) and apart > 1e-5 for apart in found.values()), found


def test_placements_that_are_no_shards_count(four: Crew) -> None:
    """FSDP2 over tensor parallelism divides a dimension twice, by a placement of which `is_shard()` is False."""
    for found in four.run(joined_where_is_shard_says, ["LAMB", "Adafactor"], 4):
        assert all(isinstance(apart, float) and apart > 1e-5 for apart in found.values()), found


def test_zero1_divides_the_state_evenly(four: Crew) -> None:
    """Of an embedding beside small tensors, where whole tensors per process would be 400 to 1 apart."""
    shapes = [(1000, 64), (64, 64), (64,), (256, 64), (256,), (1,), (3, 5)]
    for name, replicas in (("AdamW", False), ("LAMB", False), ("AdamW8bit", False), ("Adafactor", True)):
        found = four.run(state_bytes, name, 4, shapes)
        here = [one for one, _, _ in found]
        if not replicas:  # of Adafactor's only biases have a state per element: nothing to divide, and the work counts
            assert max(here) <= 1.05 * min(here), (name, here)
        assert sum(here) == found[0][1], name
        assert (found[0][2] > 0) is replicas, name


def test_zero1_sends_every_parameter_once(two: Crew) -> None:
    shapes = [(100, 64), (64,), (7,)]
    (sent,) = two.run(parameters_sent, 2, shapes)[0]
    elements = 100 * 64 + 64 + 7
    assert sent[0] == "all_gather_single" and 4 * elements <= sent[1] <= 4 * (elements + 128)
