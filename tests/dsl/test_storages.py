"""Storages in the text of specs: what is read and shown, what levels come to, what is refused and where, and compositions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optc.compiler.compose.expand import expand, with_modifiers
from optc.compiler.compose.library import named
from optc.compiler.compose.library import shipped as shipped_specs
from optc.dsl import nodes
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.parse import parse, parse_file
from optc.dsl.program import Program, Storage
from optc.dsl.read import read
from optc.dsl.show import format_text, show
from optc.dsl.source import Source
from optc.dsl.storages import CASTS, SHIPPED, resolve, shipped
from tests.dsl.wrong import found
from tests.strategies import defines, deriveds, expressions, identities, references, texts

SIXTEEN = "storage q:\n    codes = 16\n    define level(c) = (c - 7)/8\n"


def using(clause: str, before: str = "") -> str:
    """An optimizer with a state of either sign, one of 0 or above, and a number per tensor."""
    return before + (
        "optimizer X:\n    hyper: lr = 0.1 in [0, inf)\n    state: m = 0; v = 0; n = 0 per tensor\n"
        f"    storing {clause}\n    step:\n        m <- m + g\n        v <- v + g^2\n        n <- n + 1\n"
        "        theta <- theta - lr*m*v/n\n"
    )


def defined(*lines: str) -> str:
    return "\n".join(("storage q:", *(f"    {line}" for line in lines))) + "\n"


def checked(text: str) -> Program:
    source = Source("right.opt", text)
    return check(parse(source), source)


def storages_of(program: Program) -> dict[str, Storage]:
    return {state.name: state.storage for state in program.states if state.storage is not None}


def composed(text: str) -> Program:
    expanded = expand(Source("x.opt", text))
    return check(expanded.spec, expanded.source)


# --- reading and showing ------------------------------------------------------------------------------------------------------

_arguments = deriveds.map(lambda derived: derived.base.arguments)
_kept = st.builds(nodes.Kept, identities, identities, _arguments)
_clauses = st.lists(_kept, max_size=3).map(tuple)
_storages: st.SearchStrategy[tuple[nodes.Storage, ...]] = st.lists(
    st.builds(
        nodes.Storage,
        name=identities,
        text=st.none() | texts,
        cites=st.lists(references, max_size=2).map(tuple),
        notes=st.lists(texts, max_size=2).map(tuple),
        settings=st.lists(st.builds(nodes.Argument, identities, expressions), min_size=1, max_size=3).map(tuple),
        defines=st.lists(defines, max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=2,
).map(tuple)


_ADDED = (nodes.Modifier("x", hooks=(nodes.Hook("couple", "g", None, None, (nodes.Stop(),)),)),)
_files = st.builds(
    lambda defines, storages, storing: nodes.Spec(
        nodes.Optimizer("X", states=(nodes.State("m", nodes.Number(0)),), step=(nodes.Stop(),), storing=storing),
        defines,
        storages,
    ),
    st.lists(defines, max_size=1).map(tuple),
    _storages,
    _clauses,
) | st.builds(
    lambda derived, defines, storages, storing: nodes.Composition(
        None if derived is None else replace(derived, storing=storing), _ADDED if derived else (), defines, storages
    ),
    st.none() | deriveds,
    st.lists(defines, max_size=1).map(tuple),
    _storages,
    _clauses,
)


@pytest.mark.parametrize("mathematical", [False, True])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(file=_files)
def test_shown_storages_read_back_and_show_themselves_again(mathematical: bool, file: nodes.File) -> None:
    text = show(file, mathematical)
    again = parse_file(Source("<text>", text))
    assert again == file
    assert show(again, mathematical) == text
    assert mathematical or not any(character in text for character in "√·←≤≥≠∧∨⟨⌊‖ᵀ²")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.opt")), ids=lambda path: path.stem)
def test_shipped_storages_are_one_in_both_spellings_and_formatted(path: Path) -> None:
    source = read(path)
    ascii_text, mathematical = format_text(source), format_text(source, mathematical=True)
    assert ascii_text.isascii()
    assert parse_file(Source("<text>", ascii_text)) == parse_file(Source("<text>", mathematical)) == parse_file(source)
    assert format_text(Source("<text>", mathematical)) == ascii_text
    assert source.text == mathematical


def test_functions_of_the_file_may_stand_before_a_storage() -> None:
    text = f"define half(x) = x/2\n\n{SIXTEEN}\noptimizer X = Lion storing m: q\n"
    assert format_text(Source("<text>", text)) == text
    file = parse_file(Source("<text>", text))
    assert [len(parts) for parts in (file.defines, file.storages)] == [1, 1]


COMMENTED = """\
   # top
optimizer X:   # on the head
    step:
        θ <- θ - ε*m # on theta
        m <- g
    # before storing
    storing   m:q( 64 ),v : bf16   # on storing
    state: m = 0; v = 0
# before the storage
storage   q:  # on the storage
    # before the text
    "A text."
    block=64 # on block
    # before the level
    define level( c )=(c-7)/8  #on level
    # behind the level
    codes  =  16# on codes
# last
"""
CANONICAL = """\
# before the storage
storage q:  # on the storage
    # before the text
    "A text."
    block = 64  # on block
    # behind the level
    codes = 16  # on codes
    # before the level
    define level(c) = (c - 7)/8  # on level

# top
optimizer X:  # on the head
    state:
        m = 0
        v = 0
    # before storing
    storing m: q(64), v: bf16  # on storing
    step:
        theta <- theta - eps*m  # on theta
        m <- g
# last
"""


def test_comments_stay_with_what_they_are_about() -> None:
    assert format_text(Source("<text>", COMMENTED)) == CANONICAL
    assert format_text(Source("<text>", CANONICAL)) == CANONICAL
    assert format_text(Source("<text>", format_text(Source("<text>", COMMENTED), mathematical=True))) == CANONICAL


def test_a_clause_of_a_composition_is_shown_behind_it_however_long_it_is() -> None:
    terms = " + ".join(f"lookahead(k = {k})" for k in range(9))
    text = f'optimizer X = (AdamW without amsgrad\n    + {terms}) storing m: q(block=64), v: bf16:\n    "Text."\n'
    shown = format_text(Source("<text>", text))
    assert shown.splitlines()[-2].endswith(") storing m: q(block = 64), v: bf16:")
    assert format_text(Source("<text>", shown)) == shown
    assert parse_file(Source("<text>", shown)) == parse_file(Source("<text>", text))


def test_words_of_storages_are_names_elsewhere() -> None:
    names = ("storage", "codes", "block", "level", "ties", "unit", "least", "smallest")
    lines = "".join(f"        {name} = {before}*2\n" for before, name in zip(("g", *names), names, strict=False))
    text = f"optimizer X:\n    hyper: lr = 0.1\n    step:\n{lines}        theta <- theta - lr*smallest\n"
    assert checked(text).name == "X" and format_text(Source("<text>", text)) == text.replace(
        " lr = 0.1\n", "\n        lr = 0.1\n"
    )


# --- what levels come to ------------------------------------------------------------------------------------------------------


def published(signed: bool, exponents: int, bits: int) -> list[float]:
    """The levels of arXiv:2110.02861 as its authors' code makes them."""
    torch = pytest.importorskip("torch")
    levels = []
    for i in range(exponents):
        items = 2 ** (i + bits - 1 - exponents) if signed else 2 ** (i + bits - exponents)
        edges = torch.linspace(0.1, 1, items + 1, dtype=torch.float32)
        means = 10.0 ** (i + 1 - exponents) * ((edges[:-1] + edges[1:]) / 2)
        levels += [*means.tolist(), *((-means).tolist() if signed else [])]
    return sorted([*levels, 0.0, 1.0])


def bits_of_float8(name: str) -> list[float]:
    torch = pytest.importorskip("torch")
    numbers = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name)).float()
    return [math.nan if math.isinf(x) else x for x in numbers.tolist()]


LEVELS: dict[str, Callable[[], list[float]]] = {
    "dynamic8": lambda: published(True, 7, 8),
    "udynamic8": lambda: published(False, 7, 8),
    "dynamic4": lambda: published(True, 3, 4),
    "e4m3": lambda: bits_of_float8("float8_e4m3fn"),
    "e5m2": lambda: bits_of_float8("float8_e5m2"),
    "linear4": lambda: [(c + 1) / 16 for c in range(16)],
    "linear8": lambda: [(c - 127) / 127 for c in range(255)] + [math.nan],
    "ulinear8": lambda: [c / 255 for c in range(256)],
}


@pytest.mark.parametrize("name", LEVELS)
def test_shipped_levels_are_the_published_ones_bit_for_bit(name: str) -> None:
    storage = resolve(nodes.Kept("m", name), ())
    assert isinstance(storage, Storage)
    np.testing.assert_array_equal(np.array(storage.levels, np.float32), np.array(LEVELS[name](), np.float32))


def test_every_shipped_storage_of_codes_has_its_levels_in_order_and_says_what_it_keeps() -> None:
    signed = {"dynamic4", "dynamic8", "e4m3", "e5m2", "linear8", "sign1"}
    for name, node in shipped().items():
        storage = resolve(nodes.Kept("m", name), ())
        if not isinstance(storage, Storage):
            assert not any(define.name == "level" for define in node.defines), f"{name}: {storage}"
            continue
        known = np.array([x for x in storage.levels if not math.isnan(x)])
        assert storage.signed == (name in signed)
        assert np.array_equal(storage.levels, np.sort(storage.levels), equal_nan=True) or name in ("e4m3", "e5m2")
        assert np.abs(known).max() == storage.unit, "the largest number of a block is kept as it is"
        assert storage.bytes == {256: 1, 16: 0.5, 2: 0.125}[len(storage.levels)] + 4 / storage.block


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("c", lambda c: c),
        ("-c + 20", lambda c: 20 - c),
        ("where(c == 0 or c > 14 and not c == 15, nan, c)", lambda c: math.nan if c == 0 else c),
        ("where(c < 8, -2.0^(8 - c), 2^(c - 8))", lambda c: -(2.0 ** (8 - c)) if c < 8 else 2.0 ** (c - 8)),
        ("√c + |c - 3| + ⌊c/2⌋ + max(c, 2) + min(c, 9)", lambda c: c**0.5 + abs(c - 3) + c // 2 + max(c, 2) + min(c, 9)),
        ("exp(c/4) + ln(c + 1) + tanh(c) + π", lambda c: math.exp(c / 4) + math.log(c + 1) + math.tanh(c) + math.pi),
        ("c + fp32(0.1)", lambda c: c + float(np.float32(0.1))),
        ("c + c mod 3", lambda c: c + c % 3),
        ("cube(c) + 1", lambda c: c**3 + 1),
        ("chained(c)", lambda c: 3 * c + 1),
    ],
)
def test_levels_are_plain_arithmetic_in_float64_rounded_once(line: str, expected: Callable[[int], float]) -> None:
    helpers = ("define cube(x) = x^3", "define chained(x):", "    y = 2*x", "    y = y + x", "    return y + 1")
    storage = resolve(
        nodes.Kept("m", "q"),
        parse_file(Source("<text>", defined("codes = 16", *helpers, f"define level(c) = {line}"))).storages,
    )
    assert isinstance(storage, Storage)
    with np.errstate(over="ignore"):
        levels = np.array([expected(c) for c in range(16)], np.float64).astype(np.float32)
    np.testing.assert_array_equal(np.array(storage.levels, np.float32), levels)


@pytest.mark.parametrize(
    ("clause", "name", "changed"),
    [
        ("m: dynamic8", "dynamic8", {}),
        ("m: dynamic8(128)", "dynamic8(block = 128)", {"block": 128}),
        ("m: dynamic8(block=64, smallest=0)", "dynamic8(block = 64, smallest = 0)", {"block": 64, "smallest": 0}),
        ("m: dynamic8(4096, least = 1e-3)", "dynamic8(block = 4096, least = 0.001)", {"block": 4096, "least": 1e-3}),
        ("m: dynamic8(smallest = 1)", "dynamic8(smallest = 1)", {"smallest": 1}),
        ("m: dynamic8(scale = 1)", "dynamic8(scale = 1)", {"fixed": True, "block": 4096, "least": 0.0}),
    ],
)
def test_a_clause_changes_settings_of_its_state_alone(clause: str, name: str, changed: dict[str, float]) -> None:
    given = storages_of(checked(using(f"{clause}, v: udynamic8")))
    plain = storages_of(checked(using("m: dynamic8, v: udynamic8")))
    if "least" in changed:
        changed = {**changed, "least": float(np.float32(changed["least"]))}
    assert given["m"] == replace(plain["m"], name=name, **changed)  # type: ignore[arg-type]
    assert given["v"] == plain["v"]


def test_equal_storages_are_equal_whatever_codes_they_leave_out() -> None:
    given = storages_of(checked(using("m: e4m3, v: e4m3")))
    assert given["m"] == given["v"] and len({*given.values()}) == 1


def test_dtypes_and_defaults() -> None:
    given = storages_of(checked(using("m: q, v: bf16", SIXTEEN)))
    assert given["v"] == Storage("bf16", dtype="bfloat16") and given["v"].bytes == 2 and given["v"].signed
    assert given["m"] == Storage("q", None, tuple((c - 7) / 8 for c in range(16)), 256, "down", 1.0, 0.0, 4096)
    assert {name: storages_of(checked(using(f"m: {name}")))["m"].dtype for name in CASTS} == CASTS


def test_settings_of_a_definition_are_taken() -> None:
    lines = ("codes = 16", "block = 512", 'ties = "even"', "unit = 3", "least = 0.5", "smallest = 7", "define level(c) = c - 7")
    found = storages_of(checked(using("m: q", defined(*lines))))["m"]
    assert found == Storage("q", None, tuple(float(c - 7) for c in range(16)), 512, "even", 3.0, 0.5, 7)


def test_a_storage_of_the_file_goes_before_a_shipped_one() -> None:
    own = SIXTEEN.replace("storage q", "storage dynamic8")
    assert len(storages_of(checked(using("m: dynamic8", own)))["m"].levels) == 16
    assert len(shipped()["dynamic8"].defines) > 1


# --- compositions -------------------------------------------------------------------------------------------------------------


def kept(program: Program) -> dict[str, str]:
    return {name: storage.name for name, storage in storages_of(program).items()}


def test_a_composition_gives_its_base_storages_and_inherits_and_overrides_them() -> None:
    inherited = {"m": "dynamic8", "v": "udynamic8", "v_max": "udynamic8"}
    assert kept(composed("optimizer X = AdamW storing m: dynamic8, v: bf16\n")) == {"m": "dynamic8", "v": "bf16"}
    assert kept(composed("optimizer X = AdamW8bit + cautious\n")) == inherited
    changed = composed("optimizer X = AdamW8bit storing m: dynamic4(64), v_max: fp32\n")
    assert kept(changed) == {"m": "dynamic4(block = 64)", "v": "udynamic8", "v_max": "fp32"}


def test_what_is_said_of_a_state_goes_with_it() -> None:
    assert kept(composed("optimizer X = AdamW8bit without amsgrad\n")) == {"m": "dynamic8", "v": "udynamic8"}
    with pytest.raises(SpecError) as caught:
        composed("optimizer X = AdamW without amsgrad storing m: bf16, v_max: udynamic8\n")
    assert found(caught.value) == ["1:54 unknown-state"] and "the states are `m`, `v`" in str(caught.value)


def test_states_of_modifiers_may_be_stored() -> None:
    program = composed("optimizer X = Lion + lookahead storing m: dynamic8, lookahead_slow: bf16\n")
    assert kept(program) == {"m": "dynamic8", "lookahead_slow": "bf16"}


def test_a_storage_of_the_file_is_carried_into_the_written_out_spec() -> None:
    expanded = expand(Source("x.opt", f"{SIXTEEN}optimizer X = Lion + cautious storing m: q(64)\n"))
    assert expanded.source.text.startswith(SIXTEEN.replace("(c - 7)/8", "(c - 7)/8\n\noptimizer X:").removesuffix("\n"))
    assert "    storing m: q(64)\n" in expanded.source.text
    assert expanded.spec == parse(Source("<text>", expanded.source.text))
    assert kept(check(expanded.spec, expanded.source)) == {"m": "q(block = 64)"}


def test_storages_that_no_state_needs_any_more_are_not_written_out() -> None:
    text = expand(Source("x.opt", f"{SIXTEEN}optimizer X = Lion storing m: bf16\n")).source.text
    assert "storage" not in text and "storing m: bf16" in text


def test_storages_come_with_a_base_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.opt").write_text(f"{SIXTEEN}optimizer Small = AdamW storing m: q\n", encoding="utf-8")
    Path("x.opt").touch()
    Path("smaller.opt").write_text("optimizer Smaller = Small storing m: q(64), v: udynamic8\n", encoding="utf-8")
    levels = tuple((c - 7) / 8 for c in range(16))
    for text, name in (("Small + cautious", "q"), ("Small storing m: q(128)", "q(block = 128)"), ("Smaller", "q(block = 64)")):
        storage = storages_of(composed(f"optimizer X = {text}\n"))["m"]
        assert (storage.name, storage.levels) == (name, levels)
    assert set(kept(composed("optimizer X = Smaller + cautious\n"))) == {"m", "v"}


def test_options_of_commands_are_compositions() -> None:
    source = named(shipped_specs()["adamw"])
    expanded = with_modifiers(source, ["cautious"], ["m: dynamic8(block = 128)", "v: udynamic8, v_max: udynamic8"])
    program = check(expanded.spec, expanded.source)
    assert program.name == "CautiousAdamW_m_dynamic8_block_128_v_v_max_udynamic8"
    assert kept(program) == {"m": "dynamic8(block = 128)", "v": "udynamic8", "v_max": "udynamic8"}
