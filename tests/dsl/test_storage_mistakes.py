"""What storages cannot be: every mistake is told at its place, with the right words; nothing in a level is ever run."""

from __future__ import annotations

import builtins
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from optc.compiler.compose.expand import expand, with_modifiers
from optc.compiler.compose.library import named, shipped
from optc.dsl.check import check
from optc.dsl.errors import SpecError
from optc.dsl.parse import parse
from optc.dsl.source import Source
from tests.dsl.test_storages import SIXTEEN, defined, using
from tests.dsl.wrong import found


def refused(text: str) -> SpecError:
    """What is found in a spec; the clause of `using` alone is line 4."""
    source = Source("wrong.opt", text)
    with pytest.raises(SpecError) as caught:
        check(parse(source), source)
    return caught.value


def not_composed(text: str, name: str = "x.opt") -> SpecError:
    with pytest.raises(SpecError) as caught:
        expanded = expand(Source(name, text))
        check(expanded.spec, expanded.source)
    return caught.value


@pytest.mark.parametrize(
    ("clause", "column", "code", "says"),
    [
        ("m: dynamik8", 13, "unknown-storage", "did you mean `dynamic8`?"),
        ("m: zzz", 13, "unknown-storage", "known are fp64, fp32, bf16, fp16, dynamic4, dynamic8"),
        ("m: bf61", 13, "unknown-storage", "did you mean `bf16`?"),
        ("mm: bf16", 13, "unknown-state", "did you mean `m`?"),
        ("t: bf16", 13, "unknown-state", "the states are `m`, `v`, `n`"),
        ("m: bf16, m: fp16", 22, "duplicate-name", "`m` has a storage already"),
        ("m: bf16, n: bf16", 22, "wrong-extent", "`n` is per tensor"),
        ("m: dynamic8(block = 100)", 33, "wrong-setting", "`block` must be a power of two from 64 to 4096"),
        ("m: dynamic8(8192)", 25, "wrong-setting", "a power of two from 64 to 4096"),
        ("m: dynamic8(smallest = -1)", 36, "wrong-setting", "a whole number, 0 or above"),
        ("m: dynamic8(smallest = 1.5)", 36, "wrong-setting", "a whole number, 0 or above"),
        ("m: dynamic8(smallest = true)", 36, "wrong-setting", "a whole number, 0 or above"),
        ("m: dynamic8(least = inf)", 33, "wrong-setting", "a number, 0 or above"),
        ('m: dynamic8(block = "64")', 33, "wrong-setting", "a power of two"),
        ("m: dynamic8(blok = 64)", 25, "unknown-setting", "did you mean `block`?"),
        ("m: dynamic8(foo = 1)", 25, "unknown-setting", "there are `codes`, `block`"),
        ("m: dynamic8(codes = 16)", 25, "unknown-setting", "define another storage"),
        ('m: dynamic8(ties = "up")', 25, "unknown-setting", "`ties` is part of what `dynamic8` is"),
        ("m: dynamic8(scale = 2)", 33, "wrong-setting", "`scale` must be 1"),
        ("m: dynamic8(64, scale = 1)", 25, "unknown-setting", "`block` is for blocks with a scale of their own"),
        ("m: dynamic8(scale = 1, least = 1)", 36, "unknown-setting", "and here all scales are 1"),
        ('m: dynamic8(others = "linear4")', 25, "unknown-setting", "it belongs to storages with `decode:`"),
        ("m: dynamic8(unit = 2)", 25, "unknown-setting", "define another storage"),
        ("m: dynamic8(64, 128)", 29, "unknown-setting", "only the first setting may stand without its name"),
        ("m: bf16(3)", 21, "unknown-setting", "`bf16` has no such setting"),
        ("m: dynamic8(block = lr)", 33, "not-constant", "write a number"),
        ("m: udynamic8", 13, "unsigned-storage", "take one for signed numbers, such as `dynamic8`, or write `m <- max(…, 0)`"),
        ("m: ulinear8(64)", 13, "unsigned-storage", "`ulinear8(block = 64)` keeps no negative numbers"),
    ],
)
def test_mistakes_in_a_clause(clause: str, column: int, code: str, says: str) -> None:
    error = refused(using(clause))
    assert found(error) == [f"4:{column} {code}"]
    assert says in str(error)


@pytest.mark.parametrize("clause", ["m: dynamic8(block = 64.0)", "m: dynamic8(least = 1e39)"])
def test_settings_that_no_kernel_can_have_are_refused(clause: str) -> None:
    """Blocks are counted, and what is no float32 number is infinite there."""
    assert found(refused(using(clause))) == ["4:33 wrong-setting"]


def test_a_setting_is_given_once() -> None:
    assert found(refused(using("m: dynamic8(64, block = 128)"))) == ["4:29 duplicate-name"]


@pytest.mark.parametrize(
    "clause", ["m dynamic8", "m:", "m: dynamic8,", "m: dynamic8(", "m: 8", "m = dynamic8", ": dynamic8", "m: bf16 v: bf16"]
)
def test_a_clause_that_cannot_be_read_is_told_at_its_line(clause: str) -> None:
    error = refused(using(clause))
    assert len(error.diagnostics) == 1 and found(error)[0].startswith("4:")
    assert "Token" not in str(error) and "_STORING" not in str(error)


@pytest.mark.parametrize(
    ("lines", "place", "code", "says"),
    [
        (("codes = 17", "define level(c) = c"), "2:13", "wrong-setting", "`codes` must be 2, 16 or 256"),
        (("codes = 16", "block = 32", "define level(c) = c"), "3:13", "wrong-setting", "a power of two from 64 to 4096"),
        (('ties = "sideways"', "define level(c) = c"), "2:12", "wrong-setting", '"down", "up" or "even"'),
        (("ties = up", "define level(c) = c"), "2:12", "wrong-setting", '"down", "up" or "even"'),
        (("unit = 0.5", "define level(c) = c"), "2:12", "wrong-setting", "a number, 1 or above"),
        (("least = -1e-9", "define level(c) = c"), "2:13", "wrong-setting", "a number, 0 or above"),
        (("colour = 3", "define level(c) = c"), "2:5", "unknown-setting", "there are `codes`, `block`"),
        (("blocks = 64", "define level(c) = c"), "2:5", "unknown-setting", "did you mean `block`?"),
        (("scale = 1", "unit = 3", "define level(c) = c"), "3:5", "unknown-setting", "leave out one of the two"),
        (("scale = 0", "define level(c) = c"), "2:13", "wrong-setting", "`scale` must be 1"),
        (("block = 64",), "1:1", "no-level", "write `define level(c) = …`"),
        (("define levels(c) = c",), "1:1", "no-level", "`q` does not say what its codes stand for"),
        (("define level() = 1",), "1:1", "no-level", "`q` does not say"),
        (("define level(c, d) = c",), "1:1", "no-level", "`q` does not say"),
        (("define level(c) = 3",), "1:1", "wrong-levels", "two codes of `q` stand for the same number"),
        (("define level(c) = nan",), "1:1", "wrong-levels", "two numbers or more, all finite"),
        (("define level(c) = where(c == 9, 1, nan)",), "1:1", "wrong-levels", "two numbers or more"),
        (("define level(c) = 1/(c - 7)",), "1:1", "wrong-levels", "all finite"),
        (("codes = 16", "define level(c) = where(c < 3, 0*(c - 1), c)"), "1:1", "wrong-levels", "same number"),
        (("define level(c) = c + lr",), "2:27", "unsupported", "this cannot stand in a level"),
        (("define level(c) = g",), "2:23", "unsupported", "it reads its argument, numbers and plain functions"),
        (("define level(c) = foo(c)",), "2:23", "unsupported", "cannot stand in a level"),
        (("define level(c) = mean(c)",), "2:23", "unsupported", "cannot stand in a level"),
        (("define level(c) = uniform(c)",), "2:23", "unsupported", "cannot stand in a level"),
        (("define level(c) = max(c)",), "2:23", "unsupported", "cannot stand in a level"),
        (("define level(c) = c[0]",), "2:23", "unsupported", "cannot stand in a level"),
        (('define level(c) = "c"',), "2:23", "unsupported", "cannot stand in a level"),
        (("define level(c) = c @ c",), "2:23", "unsupported", "cannot stand in a level"),
        (("define level(c):", "    if c < 3: stop", "    return c"), "3:9", "unsupported", "where(c, a, b)"),
        (("define level(c):", "    c <- 2*c", "    return c"), "3:9", "unsupported", "name = value"),
        (("define level(c) = half(c)", "define half(x) = level(x)/2"), "2:5", "recursion", "`level` calls itself"),
        (("define level(c) = level(c - 1)",), "2:5", "recursion", "`level` calls itself"),
        (("define level(c) = half(c, c)", "define half(x) = x/2"), "3:5", "wrong-arity", "`half` takes 1"),
        (('"a"', '"b"', "define level(c) = c"), "3:5", "duplicate-section", "join the two"),
    ],
)
def test_mistakes_in_a_definition(lines: tuple[str, ...], place: str, code: str, says: str) -> None:
    error = refused(using("m: q", defined(*lines)))
    assert found(error) == [f"{place} {code}"]
    assert says in str(error)


@pytest.mark.parametrize("line", ["unit = 1e39", "least = 1e39", "block = 64.0", "codes = 16.0"])
def test_settings_of_a_definition_that_no_kernel_can_have_are_refused(line: str) -> None:
    column = len(line.split("=")[0]) + 7
    assert found(refused(using("m: q", defined(line, "define level(c) = c - 7")))) == [f"2:{column} wrong-setting"]


@pytest.mark.filterwarnings("error")
def test_levels_beyond_float32_are_refused_without_a_warning() -> None:
    assert found(refused(using("m: q", defined("define level(c) = c*1e39")))) == ["1:1 wrong-levels"]


@pytest.mark.parametrize("level", ["1 + c*2^(0 - 23) - where(c == 0, 9, 0)", "where(c < 2, 0*(c - 0.5), nan)"])
def test_levels_that_no_kernel_can_tell_apart_are_refused(level: str) -> None:
    """Each bound between two levels needs a place of its own in the table, and there must be one."""
    assert found(refused(using("m: q", defined("codes = 16", f"define level(c) = {level}")))) == ["1:1 wrong-levels"]


@pytest.mark.parametrize("level", ["-(c < 3)", "(c < 3) - (c < 2)", "√(c < 3)", "sign(c < 3) + c"])
def test_conditions_are_no_numbers(level: str) -> None:
    error = refused(using("m: q", defined("codes = 16", f"define level(c) = {level}")))
    assert [where.split(":")[0] for where in found(error)] == ["3"] and error.diagnostics[0].code == "unsupported"


@pytest.mark.parametrize(
    ("before", "place"),
    [
        (defined("block = 64", "block = 128", "define level(c) = c - 7"), "3:5"),
        (defined("define level(c) = c - 7", "define level(c) = c - 8"), "3:5"),
        (SIXTEEN + SIXTEEN.replace("7", "8"), "4:9"),
    ],
    ids=["setting", "level", "storage"],
)
def test_nothing_is_said_twice(before: str, place: str) -> None:
    assert found(refused(using("m: q", before))) == [f"{place} duplicate-name"]


@pytest.mark.parametrize("name", ["bf16", "fp32"])
def test_the_name_of_a_dtype_cannot_be_defined(name: str) -> None:
    error = refused(using(f"m: {name}", SIXTEEN.replace("storage q", f"storage {name}")))
    assert len(error.diagnostics) == 1 and found(error)[0].startswith("1:")


def test_mistakes_come_together() -> None:
    before = SIXTEEN.replace("16", "17") + SIXTEEN.replace("storage q", "storage r").replace("c - 7", "c - foo")
    error = refused(using("m: q, mm: bf16, v: r(blok = 3), n: bf16", before))
    assert found(error) == [
        "2:13 wrong-setting", "6:28 unsupported", "10:19 unknown-state", "10:34 unknown-setting", "10:45 wrong-extent"
    ]  # fmt: skip


def test_a_storage_must_be_used_and_a_file_must_have_an_optimizer() -> None:
    error = refused(using("m: bf16", SIXTEEN))
    assert found(error) == ["1:9 unused-storage"] and "nothing is kept in the storage `q`" in str(error)
    for text in (SIXTEEN, SIXTEEN + SIXTEEN.replace("storage q", "storage r")):
        error = refused(text)
        assert found(error) == ["1:1 not-written-out"] and "use it in one: `storing m: q`" in str(error)
        error = not_composed(text)
        assert found(error) == ["1:1 no-optimizer"] and "with `storing m: q`" in str(error)


def test_a_state_per_row_has_no_storage() -> None:
    rows = "optimizer X:\n    hyper: lr = 0.1\n    state:\n        if ndim >= 2: r = 0 per row\n    storing r: bf16\n"
    rows += "    step:\n        u = g\n        if ndim >= 2:\n            r <- r + rowmean(g)\n            u = g*r\n"
    error = refused(rows + "        theta <- theta - lr*u\n")
    assert found(error) == ["5:13 wrong-extent"] and "`r` is per row" in str(error)


@pytest.mark.parametrize(
    ("text", "line", "column", "code"),
    [
        ("optimizer X = AdamW storing mm: bf16, v: udynamic9\n", 1, (29, 39), ("unknown-state", "unknown-storage")),
        ("optimizer X = AdamW storing m: dynamic8(100)\n", 1, (41,), ("wrong-setting",)),
        ("optimizer X = AdamW storing v: bf16 storing m: bf16\n", 1, (37,), ("syntax",)),
        (SIXTEEN.replace("16", "8") + "optimizer X = AdamW storing m: q\n", 2, (13,), ("wrong-setting",)),
        ("optimizer X = AdamW storing m: bf16, m: fp16\n", 1, (38,), ("duplicate-name",)),
        ("optimizer X = CAME storing R: bf16\n", 1, (28,), ("wrong-extent",)),
    ],
)
def test_mistakes_in_a_composition(text: str, line: int, column: tuple[int, ...], code: tuple[str, ...]) -> None:
    assert found(not_composed(text)) == [f"{line}:{a} {b}" for a, b in zip(column, code, strict=True)]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("optimizer X = SGD storing momentum_buffer: udynamic8\n", None),
        ("\n\noptimizer X = RMSprop storing v: udynamic8\n", "3:31"),
        ("optimizer X = RMSprop + cautious storing v: ulinear8(64)\n", "1:42"),
        (using("m: udynamic8").replace("    storing", "    # one\n    storing"), "5:13"),
    ],
)
def test_signs_are_told_where_the_storage_is_asked_for(text: str, place: str | None) -> None:
    error = not_composed(text)
    assert error.source.name == "x.opt" and "composed" not in str(error)
    if place is not None:
        assert found(error) == [f"{place} unsigned-storage"]


def test_signs_of_a_base_in_another_file_are_told_at_its_name(tmp_path: Path) -> None:
    (tmp_path / "base.opt").write_text("optimizer Base = RMSprop storing v: udynamic8\n", encoding="utf-8")
    (tmp_path / "x.opt").write_text("optimizer X = Base + cautious\n", encoding="utf-8")
    error = not_composed((tmp_path / "x.opt").read_text(encoding="utf-8"), str(tmp_path / "x.opt"))
    assert error.source.name == str(tmp_path / "x.opt") and found(error) == ["1:15 unsigned-storage"]


def test_signs_are_told_beside_storages_of_lines() -> None:
    text = using("m: udynamic8, v: rowcol").replace("n = 0 per tensor", "n = 0")
    error = not_composed(text)
    assert error.source.name == "x.opt" and found(error) == ["4:13 unsigned-storage"]


def test_calls_in_a_level_may_nest_so_deep_and_no_deeper() -> None:
    """That is said as it is: a chain of functions is no recursion."""
    for deep in (8, 9):
        names = ["level", *(f"f{number}" for number in range(deep))]
        chain = [f"define {name}(c) = {below}(c)" for name, below in pairwise(names)]
        text = using("m: q", defined(*chain, f"define {names[-1]}(c) = c - 7"))
        if deep == 8:
            source = Source("right.opt", text)
            assert check(parse(source), source)
        else:
            error = refused(text)
            assert found(error) == ["11:5 too-deep"]
            assert "`level` calls `f0`, and so on: calls nest deeper than 8 before they reach `f8`" in str(error)


def test_another_storage_of_the_same_name_does_not_change_what_a_base_keeps(tmp_path: Path) -> None:
    (tmp_path / "base.opt").write_text(f"{SIXTEEN}optimizer Base = AdamW storing m: q\n", encoding="utf-8")
    (tmp_path / "x.opt").write_text(f"{SIXTEEN.replace('/8', '/9')}optimizer X = Base storing v_max: q\n", encoding="utf-8")
    try:
        expanded = expand(Source(str(tmp_path / "x.opt"), (tmp_path / "x.opt").read_text(encoding="utf-8")))
    except SpecError as error:
        assert found(error) == ["1:1 duplicate-name"]
    else:
        states = {state.name: state.storage for state in check(expanded.spec, expanded.source).states}
        assert states["m"] is not None and states["m"].levels[0] == -7 / 8


@pytest.mark.parametrize("clause", ["m", "m: ", ": dynamic8", "m: dynamic8, v", "m: bf16\n\noptimizer Y = SGD", "m: q.r"])
def test_texts_of_options_are_read_as_a_clause_alone(clause: str) -> None:
    with pytest.raises(SpecError) as caught:
        with_modifiers(named(shipped()["adamw"]), [], [clause])
    assert caught.value.source.name == "<with>"


def test_levels_are_never_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(*_: Any, **__: Any) -> Any:
        raise AssertionError("a spec's text was run")

    parse(Source("<text>", using("m: q", SIXTEEN)))  # what is imported on first use
    for name in ("eval", "exec", "open"):
        monkeypatch.setattr(builtins, name, run)
    for call in (
        "eval(c)",
        "exec(c)",
        "open(c)",
        "__import__(c)",
        "print(c)",
        "compile(c, c, c)",
        "__builtins__",
        "np(c)",
        "self",
    ):
        error = refused(using("m: q", defined(f"define level(c) = {call}")))
        assert found(error) == ["2:23 unsupported"], call
    for text in ("().__class__", "c.real", "c.__class__()", "lambda: c", "[c for c in c]", "c if c else c", "`c`", "f'{c}'"):
        assert refused(using("m: q", defined(f"define level(c) = {text}"))).diagnostics, text
