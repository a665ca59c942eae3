"""The native backend's Philox, for each width of vectors: another generator's numbers, from any element on, for any count."""

from __future__ import annotations

import ctypes
from itertools import product

import numpy as np
import pytest

from optc.dsl.philox import ELEMENTS
from optc.runtime.native_build import kernel_source, load_library
from tests.reference_loops_sampling import uniforms

TEXT = """
namespace optc {
static Update select_update(const double*, const uint8_t*) { return nullptr; }
}
OPTC_EXPORT void fill(void* const* runs, int64_t from, int64_t count, float* in_a_loop, float* alone) {
    static optc::Drawn<256> drawn(5, 6, 8, 7, 3);
    const optc::Elements elements({runs, 1, 0, 0, count}, 0);
    const uint32_t* words = drawn.of(elements, from, count);
    for (int64_t i = 0; i < count; ++i) {
        in_a_loop[i] = optc::uniform(words[i]);
        alone[i] = optc::uniform(elements(from + i), 5, 6, 8, 7, 3);
    }
}
"""
SEED, STEP, PLACE = 5 + 6 * 2**24, 8 + 7 * 2**24, 3
TYPES = {f"OPTC_{kind}_T": "fp32" for kind in ("PARAM", "GRAD", "STATE", "INPUT", "MATH")}
AVX512, AVX2, SSE2 = (f"defined(__{name}__)" for name in ("AVX512F", "AVX2", "SSE2"))
WITHOUT_PRODUCTS = {AVX2: "0", SSE2: "0"}
FORMS: dict[str, dict[str, str]] = {
    "this CPU's": {},
    "two": {AVX512: "0", AVX2: "0"},
    "two, without an instruction": {AVX512: "0", **WITHOUT_PRODUCTS},
    "eight, without an instruction": {f"#if {AVX512}\nconstexpr": "#if 1\nconstexpr", AVX512: "0", **WITHOUT_PRODUCTS},
}
"""Lanes, by what of the text is replaced."""
STARTS = (*(ELEMENTS + k for k in (0, 1, 2, 3, 7, 250)), 3 * 2**34 - 37, 5 * ELEMENTS - 1)
COUNTS = (1, 2, 3, 4, 5, 31, 64, 255, 256)
RUNS = ((1, 2), (3, 4), (5, 37), (64, 65), (200, 1000))
"""How long they are, and how far apart."""


@pytest.mark.parametrize("form", FORMS)
def test_words_are_those_of_the_generator(form: str) -> None:
    source = kernel_source(TEXT)
    for old, new in FORMS[form].items():
        assert old in source
        source = source.replace(old, new)
    fill = load_library(source, {**TYPES, "OPTC_VARIANT": "0"}).fill
    fill.argtypes, fill.restype = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p), None
    for first, runs in product(STARTS, ((0, 0), *RUNS)):
        elements = np.array([first, *runs], dtype=np.uint64)
        for start, count in product((0, 3) if runs[1] else (0,), COUNTS):
            places = np.arange(start, start + count)
            places = places // runs[0] * runs[1] + places % runs[0] if runs[1] else places
            expected = uniforms(SEED, STEP, (places[-1] + 1,), place=PLACE, first=first - ELEMENTS)[places]
            found = np.zeros((2, 256), dtype=np.float32)
            fill(elements.ctypes.data, start, count, found[0].ctypes.data, found[1].ctypes.data)
            for row in found:
                assert np.array_equal(row[:count], expected), (first, runs, count)
                assert not row[count:].any()
