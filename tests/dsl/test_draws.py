"""Random numbers in the language: what they are, which ones a place in the text gets, and where they cannot be drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optc.compiler.interpret import Oracle
from optc.compiler.ir import expressions, walk
from optc.compiler.pipeline import check_source
from optc.dsl.philox import ELEMENTS, PLACES, numbers_of_elements, philox
from optc.dsl.philox import drawn as drawn_numbers
from optc.dsl.program import DRAW, Apply, Constant
from optc.dsl.source import Source
from optc.runtime import draws
from tests.dsl.wrong import diagnose, found
from tests.reference_cases import Array
from tests.reference_loops_sampling import normals, uniforms
from tests.reference_loops_sampling import philox as by_hand

FULL = 2**32 - 1
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)

KNOWN = [
    # counter, key, words: from the authors' own list of known answers
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL,) * 4, (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_generator_gives_the_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    elements = np.array([counter[0] + (counter[1] << 32)], dtype=np.uint64)
    assert tuple(int(word[0]) for word in philox(elements, counter[2], counter[3], *key)) == words


def test_the_runtime_numbers_elements_alike() -> None:
    assert (draws.ELEMENTS, draws.PLACES) == (ELEMENTS, PLACES)
    assert [draws.first_element(p) for p in range(3)] == [int(numbers_of_elements(p, (2,))[0]) for p in range(3)]


# --- which numbers ------------------------------------------------------------------------------------------------------------


def spec(*lines: str, hyper: str = "seed = 0 in int [0, inf)") -> str:
    body = "".join(f"        {line}\n" for line in lines)
    head = f"optimizer Drawing:\n    hyper: lr = 1.0 in [0, inf); {hyper}\n    state: m = 0\n    step:\n"
    return f"{head}{body}        θ <- θ - lr*m\n"


def drawn(text: str, shape: tuple[int, ...], steps: int = 1, **hypers: int) -> list[Array]:
    """m after every step, for three parameters of a model: those of the last one."""
    oracle = Oracle(check_source(Source("<test>", text)), hypers)
    parameters = oracle.new_parameters([np.zeros(shape)] * 3)
    found_ = []
    for _ in range(steps):
        oracle.step_together(parameters, [np.zeros(shape)] * 3)
        found_.append(np.array(parameters[2].states["m"]))
    return found_


@pytest.mark.parametrize("seed", [0, 1, 2**24, 2**24 + 5, 2**45 + 7])
def test_a_call_has_numbers_of_its_own(seed: int) -> None:
    text = spec(*(f"u{n} = uniform(seed)" for n in range(6)), "m <- u0 + 2*u1 + 4*u2 + 8*u3 + 16*u4 + 32*u5")
    for t, m in enumerate(drawn(text, (2, 3), 3, seed=seed), start=1):
        assert np.array_equal(m, sum(2**n * uniforms(seed, t, (2, 3), 2, place=n) for n in range(6)))


def test_a_name_is_drawn_once_and_a_call_anew() -> None:
    assert not drawn(spec("u = uniform(seed)", "m <- u - u"), (5,))[0].any()
    assert drawn(spec("m <- uniform(seed) - uniform(seed)"), (5,))[0].all()


def test_functions_draw_where_they_are_called() -> None:
    text = "define wiggle(s) = 2*uniform(s) - 1\n" + spec("m <- wiggle(seed) + 10*wiggle(seed)")
    one, other = (uniforms(0, 1, (4,), 2, place) for place in (0, 1))
    assert np.allclose(drawn(text, (4,))[0], (2 * one - 1) + 10 * (2 * other - 1), atol=1e-15)


def test_branches_draw_at_places_of_their_own() -> None:
    text = spec("if t > 1: m <- uniform(seed)", "else: m <- uniform(seed)")
    first, second = drawn(text, (4,), 2)
    assert np.array_equal(first, uniforms(0, 1, (4,), 2, 1)) and np.array_equal(second, uniforms(0, 2, (4,), 2, 0))


def test_the_step_may_be_any_number() -> None:
    oracle = Oracle(check_source(Source("<test>", spec("m <- normal(seed)"))), {"seed": 3})
    parameter = oracle.new_parameter(np.zeros(4))
    for t in (2**24 - 1, 2**24, 2**24 + 1, 2**40 + 3):
        parameter.t = t - 1
        oracle.step(parameter, np.zeros(4))
        assert np.allclose(parameter.states["m"], normals(3, t, (4,)), rtol=0, atol=1e-15)


def test_normal_numbers_are_normal() -> None:
    m = drawn(spec("m <- normal(seed)"), (40_000,), seed=11)[0]
    error = 1 / math.sqrt(len(m))
    assert abs(m.mean()) < 4 * error and abs((m**2).mean() - 1) < 6 * error and abs((m**4).mean() - 3) < 40 * error
    ordered, place = np.sort(m), (np.arange(len(m)) + 0.5) / len(m)
    assert np.abs(np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in ordered]) - place).max() < 1.9 * error


def test_other_seeds_steps_and_parameters_have_other_numbers() -> None:
    text, shape = spec("m <- normal(seed)"), (20_000,)
    oracle = Oracle(check_source(Source("<test>", text)))
    parameters = oracle.new_parameters([np.zeros(shape)] * 2)
    samples = [drawn(text, shape, seed=1)[0], drawn(text, shape, seed=2)[0], *drawn(text, shape, 2, seed=3)]
    oracle.step_together(parameters, [np.zeros(shape)] * 2)
    samples += [np.array(p.states["m"]) for p in parameters]
    samples.append(np.roll(samples[0], 1))
    correlations = np.corrcoef(np.array(samples)) - np.eye(len(samples))
    assert np.abs(correlations).max() < 5 / math.sqrt(shape[0])


def test_whatever_a_kernel_is_given_fits_float32() -> None:
    program = check_source(Source("<test>", spec(*(f"u{n} = uniform(seed)" for n in range(5)), "m <- u0*u1*u2*u3*u4")))
    inside = (e for x in expressions(program.procedures[0].body) for e in walk(x))
    places = [e.arguments[-1] for e in inside if isinstance(e, Apply) and e.operation == DRAW]
    assert [place.value for place in places if isinstance(place, Constant)] == [0, 1, 2, 3, 4]
    assert PLACES <= 2**24 and 2**24 * PLACES <= 2**32


def test_neighbours_share_a_block() -> None:
    """The words of a block are those of four elements that begin at a multiple of four, in their order."""
    elements = np.arange(ELEMENTS + 2, ELEMENTS + 11, dtype=np.uint64)
    found = (drawn_numbers(elements, 5.0, 6.0, 7.0, 8.0, 9.0) * 2**24).astype(int)
    blocks = [by_hand((k, ELEMENTS // 2**34, 7, 8 * 256 + 9), (5, 6)) for k in range(3)]
    assert found.tolist() == [word >> 8 for block in blocks for word in block][2:11]


# --- mistakes -----------------------------------------------------------------------------------------------------------------

MISTAKES = {
    "a seed is a whole number": (
        spec("m <- normal(s)", hyper="s = 0.5 in [0, 1]"),
        [("5:21 no-seed", "seed = 0 in int [0, inf)")],
    ),
    "a seed is a hyper": (spec("m <- uniform(seed + 1)"), [("5:22 no-seed", "declare it")]),
    "a seed is no number of one's own": (spec("m <- uniform(7)", "m <- m*seed"), [("5:22 no-seed", "declare it")]),
    "a seed is given": (spec("m <- uniform() + seed"), [("5:14 wrong-arity", "write `uniform(seed)`")]),
    "an initial value": (
        spec("m <- m*seed").replace("m = 0", "m = uniform(seed)"),
        [("3:16 not-readable-here", "anew at every step")],
    ),
    "an entry": (
        spec("m <- m*seed") + "    entry shake(h per elem): m <- h*uniform(seed)\n",
        [("7:37 not-readable-here", "anew at every step")],
    ),
    "a condition per element": (spec("if uniform(seed) > 0.5: m <- g"), [("5:12 elem-condition", "where")]),
    "element is a name of the language": (
        spec("element = g", "m <- element*seed"),
        [("5:9 reserved-name", ""), ("6:14 unsupported", "")],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found(name: str) -> None:
    text, expected = MISTAKES[name]
    error = diagnose(text)
    assert found(error) == [place for place, _ in expected]
    for diagnostic, (_, hint) in zip(error.diagnostics, expected, strict=True):
        assert hint in (diagnostic.hint or "")


def test_there_is_an_end_to_the_places() -> None:
    lines = [f"m <- {' + '.join(['uniform(seed)'] * 16)}"] * (PLACES // 16)
    check_source(Source("<test>", spec(*lines)))
    error = diagnose(spec(*lines, "m <- m*uniform(seed)"))
    assert [d.code for d in error.diagnostics] == ["too-large"]
