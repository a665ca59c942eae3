"""Messages and bytes: what is sent is what was told, does not depend on how many tensors there are, and is needed."""

from __future__ import annotations

from functools import partial

import pytest

import optc
from tests.dist.communication import (
    gathered_in_buckets,
    joined_where_is_shard_says,
    parameters_sent,
    sent_and_told,
    state_bytes,
    without_joining,
)
from tests.dist.crew import Crew
from tests.dist.layouts import OF_ANY_SIZE
from tests.dist.test_parity import SAMPLE, silent

NAMES = [name for name in optc.available() if name not in OF_ANY_SIZE]
MANY = [(12, 4)] * 40 + [(12,)] * 40


@pytest.mark.parametrize("layout", ["fsdp", "zero1"])
def test_every_optimizer_sends_what_it_tells(two: Crew, layout: str) -> None:
    for found in two.run(sent_and_told, NAMES, layout, 2, patience=600):  # whoever comes first compiles all
        for name, messages in found.items():
            assert messages["sent"] == messages["told"] == messages["explained"], name
            own = [call for call, _ in messages["sent"] if call == "all_reduce"]
            assert len(own) == messages["exchanges"], name  # one collective for all that a pass has measured
            assert bool(own) != silent(name), name
            assert len(messages["sent"]) == len(own) + (layout == "zero1"), name


@pytest.mark.parametrize("layout", ["fsdp", "zero1"])
def test_what_guards_send_is_told(two: Crew, layout: str) -> None:
    names = ["AdamW", "LAMB", "AdamW + clip_global_norm"]
    for found in two.run(partial(sent_and_told, nonfinite="skip"), names, layout, 2):
        for name, messages in found.items():
            assert messages["sent"] == messages["told"], name
            assert (("all_reduce", 4) in messages["sent"]) is ("clip" not in name), (
                name
            )  # where the norm tells, nothing is added


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_as_many_messages_for_many_tensors_as_for_few(two: Crew, backend: str) -> None:
    """PyTorch code, the fallback, gathers what it measures: in one message, as long as there is memory for it."""
    few = two.run(sent_and_told, SAMPLE, "fsdp", 2, MANY[:1] + MANY[-1:], backend)[0]
    many = two.run(sent_and_told, SAMPLE, "fsdp", 2, MANY, backend)[0]
    for name in SAMPLE:
        assert few[name]["sent"] == few[name]["told"] and many[name]["sent"] == many[name]["told"], name
        assert len(few[name]["sent"]) == len(many[name]["sent"]), name
        assert backend == "torch" or len(many[name]["sent"]) == many[name]["exchanges"], name
        assert sum(n for _, n in many[name]["sent"]) == 40 * sum(n for _, n in few[name]["sent"]), name


def test_pytorch_code_gathers_no_more_than_fits(two: Crew) -> None:
    for found, whole in two.run(gathered_in_buckets, 2):
        assert found[0] == found[1] and len(found[0]) > len(whole) and sum(found[0]) == sum(whole)


@pytest.mark.parametrize(
    ("which", "names"), [("sum", ["LAMB", "Adafactor", "RACS", "ApolloDQN"]), ("largest", ["Gravity", "SM3", "Rose"])]
)
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
    shapes = [(1000, 64), (64, 64), (640,), (256, 64), (256,), (1,), (3, 5)]
    for name in ("AdamW", "LAMB", "AdamW8bit", "Adafactor", "RACS", "SM3", "CAME"):
        found = four.run(state_bytes, name, 4, shapes)
        every = [here + replicas for here, _, replicas in found]
        assert max(every) <= 1.05 * min(every), (name, every)
        assert sum(here for here, _, _ in found) == found[0][1], name


def test_zero1_sends_every_parameter_once(two: Crew) -> None:
    shapes = [(100, 64), (64,), (7,)]
    (sent,) = two.run(parameters_sent, 2, shapes)[0]
    elements = 100 * 64 + 64 + 7
    assert sent[0] == "all_gather_single" and 4 * elements <= sent[1] <= 4 * (elements + 128)
