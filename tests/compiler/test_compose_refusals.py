"""What cannot be composed is refused at its place, with the cause and what to do instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from optc.compiler.compose.expand import expand, with_modifiers
from optc.compiler.compose.library import named, shipped
from optc.dsl.check import check
from optc.dsl.errors import OptcError, SpecError
from optc.dsl.source import Source

STOPS = """\
optimizer Stops:
    hyper: lr = 1.0 in [0, inf)
    state: n = 0 per tensor
    step:
        u = g
        theta <- theta - lr*u
        if t > 5: stop
        n <- n + 1
"""
FLAT = """\
optimizer Flat:
    shape: matrix
    hyper: lr = 1.0 in [0, inf)
    step:
        u = g
        if ndim >= 2: u = g - rowmean(g)
        theta <- theta - lr*u
"""
PARTS = {
    "stops.opt": STOPS,
    "odd.opt": """\
optimizer Odd:
    hyper:
        rate = 1.0 in (0, inf)
        kind = "a" in {"a", "b"}
        scales = (s1 = 1.0, s2 = 2.0) in [0, inf)
        flag = false
        steps = 3 in int [0, inf)
        require flag or steps > 1, "it needs steps"
    state: m = 0
    step:
        m <- m + g
        w = m
        if kind == "a": w = m + steps
        if flag: w = m + s1
        theta <- theta - rate*s2*w
""",
    "mods.opt": """\
modifier reads_m:
    decay theta: theta = theta*m
modifier reads_v:
    mix m_hat: m_hat = m_hat/v_hat
modifier reads_lr:
    decay theta: theta = lr*theta
modifier nothing(a = 1.0 in [0, inf)):
    couple g: g = a*g
modifier needs_u:
    trust u: u = 2*u
modifier two_a(weight_decay = 0.0 as weight_decay):
    constrain theta: theta = theta - weight_decay
modifier halves:
    rewrite (a, b): a/b -> 2*a/b
modifier roots:
    rewrite (a): sqrt(a) -> a
modifier last_rows:
    trust u:
        if ndim >= 2: u = u/rowmax(u)
modifier first_rows:
    shape: matrix
    clip g:
        if ndim >= 2: g = scaled(g)
    define scaled(x) = x/colmax(x)
modifier rows_kept:
    state:
        if ndim >= 2: r = 0 per row
    project g:
        if ndim >= 2:
            r <- r + norm(g)
            g = g + r
modifier seen_as_matrix:
    shape: matrix
    mix m_hat: m_hat = 2*m_hat
""",
    "flat.opt": FLAT,
    "self.opt": "optimizer Round = About + grams\n",
    "about.opt": "optimizer About = Round + grams\n",
    "wrong.opt": "optimizer Wrong:\n    hyper: lr = 1.0\n    step: theta <- theta - lrr*g\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("specs")
    for name, text in PARTS.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


REFUSED = [
    # names
    ("AdmaW + grams", "unknown-optimizer", 1, "there is no optimizer `AdmaW`", "did you mean `AdamW`?"),
    ("AdamW + gram", "unknown-modifier", 9, "there is no modifier `gram`", "did you mean `grams`?"),
    ("AdamW + qqqqq", "unknown-modifier", 9, "there is no modifier `qqqqq`", "known are accumulated, "),
    ("grams + lookahead", "modifier-as-base", 1, "`grams` is a modifier", "write `AdamW + grams`"),
    ("AdamW + Lion", "optimizer-as-modifier", 9, "`Lion` is an optimizer", "the optimizer stands first"),
    ("Round + grams", "circular", 1, "`Round` is composed of itself", "starts with an optimizer"),
    # stages
    ("AdamW + cautious + grams", "stage-taken", 20, "both act in the stage `mask`", "leave one of them out"),
    ("AdamW + clip_norm + grams + clip_value", "stage-taken", 29, "`clip_value` and `clip_norm` both act", "leave one"),
    ("AdamW + nothing + l2", "stage-taken", 19, "in the stage `couple`, which takes one", "leave one"),
    ("AdamW + trust_ratio + clip_rms", "stage-taken", 23, "in the stage `trust`", "leave one"),
    ("AdamW + decoupled + independent", "stage-taken", 21, "in the stage `decay`", "leave one"),
    ("CautiousAdamW + grams", "stage-taken", 17, "`grams` and `cautious` both act", "leave one"),
    # points
    ("Lion + grams", "missing-point", 8, "acts on `m_hat` (m̂), which `Lion` does not bind", "binds `u`"),
    ("Odd + cautious", "missing-point", 7, "`m_hat` (m̂) or `u`, which `Odd` does not bind", "name the value `m_hat`"),
    ("Odd + needs_u", "missing-point", 7, "acts on `u`, which `Odd` does not bind", "no point but `g` and `theta`"),
    ("Odd + cautious_decay", "missing-point", 7, "reads `u`, which `Odd` does not bind", "it can read `g`"),
    ("AdamW + reads_v", "missing-point", 9, "reads `v_hat`, which is bound later", "it can read `g`, `m_hat` (m̂), `theta` (θ)"),
    ("Adadelta + reads_m", "missing-hyper", 12, "reads `m`, which `Adadelta` does not have", "hypers are `eps` (ε), `lr`"),
    ("AdamW + reads_m", "hidden-name", 9, "reads `m`, a state or local of `AdamW`", "the base's hypers"),
    ("Odd + reads_lr", "missing-hyper", 7, "reads `lr`, which `Odd` does not have", "`kind`, `rate`, `s1`"),
    ("Fromage without p_bound + decoupled", "theta-not-read", 27, "does not read θ", "theta <- theta - lr*u"),
    ("Stops + lookahead", "stop-after-theta", 9, "`Stops` may `stop` between", "without that `stop`"),
    # rewrites
    ("Lion + atan2", "pattern-not-found", 8, "`a/(sqrt(b) + c)`, which `Lion` does not have", "exactly once"),
    ("AdamW + undebiased", "pattern-found-twice", 9, "`debias(v, beta2)`, which `AdamW` has 2 times", "`AdamW without …`"),
    ("AdamW + atan2 + halves", "rewrites-overlap", 17, "`halves` and `atan2` rewrite the same place", "leave one"),
    ("AdamW + roots + atan2", "rewrites-overlap", 17, "`atan2` and `roots` rewrite the same place", "leave one"),
    # rows
    ("Flat + last_rows", "shapes-differ", 8, "`last_rows` and `Flat` do not mean the same rows", "leave one of them out"),
    ("Flat + clip_norm + rows_kept", "shapes-differ", 20, "only one of them has `shape: matrix`", "leave one of them out"),
    ("AdamW + last_rows + first_rows", "shapes-differ", 21, "`first_rows` and `last_rows` do not mean", "leave one"),
    ("AdamW + seen_as_matrix + rows_kept", "shapes-differ", 26, "`rows_kept` and `seen_as_matrix` do not", "leave one"),
    # names outside
    ("AdamW + proximal", "name-clash", 9, "a hyper `weight_decay` outside, which `AdamW` has", "`AdamW without weight_decay`"),
    ("SGD without weight_decay + l2 + proximal", "name-clash", 33, "which `l2` has as well", "leave one of the two out"),
    ("AdamW + ademamix + ademamix", "name-clash", 20, "`ademamix_alpha` outside", "leave one of the two out"),
    # arguments
    ("AdamW(0.1) + grams", "bare-argument", 7, "only a modifier takes a bare value", "`AdamW(lr = …)`"),
    ("AdamW + grams(1)", "bare-argument", 15, "`grams` has no hyper for this value", "leave the brackets out"),
    ("AdamW + atan2(1.0, 2.0)", "bare-argument", 20, "`atan2` has no hyper for this value", "stands first"),
    ("AdamW(bet1 = 0.9)", "unknown-hyper", 7, "`AdamW` has no hyper `bet1`", "did you mean `beta1`?"),
    ("AdamW + lookahead(q = 2)", "unknown-hyper", 19, "`lookahead` has no hyper `q`", "it has `k`, `alpha`"),
    ("AdamW(betas = 0.9)", "argument-type", 7, "`betas` takes 2 values in brackets", "write all of them, or one element"),
    ("AdamW(betas = (0.9, 0.9, 0.9))", "argument-type", 7, "takes 2 values in brackets, 3 given", "each element one value"),
    ("AdamW(beta1 = (0.9, 0.9))", "argument-type", 7, "`beta1` takes one value", "each element one value"),
    ("AdamW(lr = (0.9, 0.9))", "argument-type", 7, "`lr` takes one value", "write `lr = …`"),
    ("AdamW(lr = true)", "argument-type", 12, "`lr` takes a number", "write a number"),
    ("AdamW(lr = none)", "argument-type", 12, "`lr` takes a number", "write a number"),
    ("AdamW(amsgrad = 1)", "argument-type", 17, "`amsgrad` takes `true` or `false`", "write `true`"),
    ('Odd(kind = "c") + lookahead', "argument-type", 12, '`kind` is one of "a", "b"', "write one of the texts"),
    ("AdamW(beta1 = 1.0)", "argument-out-of-range", 15, "a number in [0, 1), 1 is not", "give another value"),
    ("AdamW + lookahead(k = 2.5)", "argument-out-of-range", 23, "a whole number in [1, inf)", "give another value"),
    # without
    ("AdamW without wd", "unknown-hyper", 15, "`AdamW` has no hyper `wd`", "it has `lr`"),
    ("SGD without momentum, momentum", "unknown-hyper", 23, "`SGD` has no hyper `momentum`", "it has `lr`"),
    ("Odd without flag, steps, s1", "without-tuple", 26, "`s1` is a tuple or an element of one", "`Odd(scales = (…))`"),
    ("AdamW without betas", "without-tuple", 15, "`betas` is a tuple or an element of one", "`AdamW(betas = (…))`"),
    ("Odd without s1", "without-tuple", 13, "`s1` is a tuple or an element of one", "`Odd(scales = (…))`"),
    ("Odd without kind", "without-choice", 13, "a choice of texts", '`Odd(kind = "…")`'),
    ("Odd without rate", "argument-out-of-range", 13, "means 0, which is out of its range", "`Odd(rate = …)`"),
    ("Odd without flag, steps", "requirement", 19, "without `steps`, Odd cannot be: it needs steps", "keep it"),
]


@pytest.mark.parametrize(("composition", "code", "column", "message", "hint"), REFUSED, ids=[row[0] for row in REFUSED])
def test_it_is_refused(folder: Path, composition: str, code: str, column: int, message: str, hint: str) -> None:
    lead = "optimizer X = "
    name = folder / "x.opt"
    name.write_text(f"{lead}{composition}\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        expand(Source(str(name), f"{lead}{composition}\n"))
    found = next(d for d in caught.value.diagnostics if d.code == code and message in d.message)
    if code != "circular":  # that is found in the file that closes the circle
        assert caught.value.source.position(found.span.start) == (1, len(lead) + column)
    assert found.hint is not None and hint in found.hint
    assert found.span.end > found.span.start


def test_every_reason_comes_at_once() -> None:
    text = "optimizer X = AdmaW(lr = 1) + gram\n + cautius\n".replace("\n +", " +")
    with pytest.raises(SpecError) as caught:
        expand(Source("<test>", text))
    assert [d.code for d in caught.value.diagnostics] == ["unknown-optimizer", "unknown-modifier", "unknown-modifier"]


def test_a_wrong_base_is_reported_in_its_own_file(folder: Path) -> None:
    with pytest.raises(SpecError) as caught:
        expand(Source(str(folder / "self.opt"), "optimizer X = Wrong + grams\n"))
    assert caught.value.source.name.endswith("wrong.opt")
    assert {d.code for d in caught.value.diagnostics} == {"unknown-name"}


FORMS = [
    ("    mix m_hat: u = 1", "wrong-point", "`mix` changes `m_hat` only, not `u`"),
    ("    mask m_hat else u as z: m_hat = 1", "wrong-point", "`mask` changes `z` only, not `m_hat`"),
    ("    mask m_hat else u: m_hat = 1", "no-alias", "needs a name for it"),
    ("    decay theta: theta <- 0", "write-to-point", "names the new value of a point"),
    ("    mix m_hat: m <- g", "write-to-non-state", "`m` is no state of this modifier"),
    ("    state: m = 0\n    mix m_hat: m = g; m_hat = m", "assign-to-state", "`m` is a state"),
    ("    mix m_hat:\n        if t == 1: stop\n        m_hat = g", "stop-in-modifier", "cannot end the base's step"),
    ("    mix m_hat: a = m_hat", "no-effect", "neither changes `m_hat` nor writes a state"),
    ("    hyper: a = 1\n    mix m_hat: m_hat = g", "unused-hyper", "no line reads the hyper `a`"),
    ("    rewrite (a): a -> 2*a", "open-pattern", "a name alone is no pattern"),
    ("    rewrite (a, b): a/2 -> a", "unused-variable", "the pattern has no `b`"),
]


@pytest.mark.parametrize(("body", "code", "message"), FORMS, ids=[row[1] for row in FORMS])
def test_the_form_of_a_modifier_is_checked_in_its_own_file(body: str, code: str, message: str) -> None:
    text = f"modifier mine:\n{body}\noptimizer X = AdamW + mine\n"
    with pytest.raises(SpecError) as caught:
        expand(Source("mine.opt", text))
    found = [(d.code, d.message) for d in caught.value.diagnostics]
    assert code in [c for c, _ in found]
    assert any(message in m for _, m in found)
    assert caught.value.source.name == "mine.opt"
    assert all(caught.value.source.position(d.span.start)[0] > 1 and d.hint for d in caught.value.diagnostics)


def test_a_file_of_modifiers_is_no_optimizer() -> None:
    with pytest.raises(SpecError, match=r"holds no optimizer, only modifiers(.|\n)*AdamW \+ mine"):
        expand(Source("mine.opt", "modifier mine:\n    couple g: g = 2*g\n"))
    with pytest.raises(OptcError, match="holds no optimizer that could be changed"):
        with_modifiers(Source("mine.opt", "modifier mine:\n    couple g: g = 2*g\n"), ["grams"])


@pytest.mark.parametrize("given", ["", "grams(", "grams lookahead", "Grams", "grams: 'x'"])
def test_what_is_no_list_of_modifiers_is_the_users_mistake(given: str) -> None:
    with pytest.raises(OptcError):
        with_modifiers(named(shipped()["adamw"]), [given])


@pytest.mark.parametrize(
    ("composition", "shape"),
    [
        ("Flat + first_rows", "matrix"),
        ("Flat + clip_norm", "matrix"),
        ("AdamW + first_rows + clip_rms", "matrix"),
        ("AdamW + seen_as_matrix + first_rows", "matrix"),
        ("AdamW + last_rows + rows_kept", None),
    ],
)
def test_what_means_the_same_rows_is_composed(folder: Path, composition: str, shape: str | None) -> None:
    name = folder / "x.opt"
    name.write_text(f"optimizer X = {composition}\n", encoding="utf-8")
    assert expand(Source(str(name), name.read_text(encoding="utf-8"))).spec.optimizer.shape == shape


def test_a_total_after_a_stop_of_the_base_is_refused_in_the_composed_text(folder: Path) -> None:
    name = folder / "x.opt"
    text = (
        "modifier limited:\n    trust u: u = u/total_norm(u)\n"
        "modifier counted:\n    state: k = 0 per model\n    trust u:\n        k <- k + 1\n        u = u/k\n"
    )
    (folder / "totals.opt").write_text(text, encoding="utf-8")
    for modifier, code, message in (
        ("limited", "narrow-total", "`total_norm` waits for all parameters, but here it comes after a `stop`"),
        ("counted", "wrong-extent", "`counted_k` is one number for the whole model, but this line runs for some"),
    ):
        composed = expand(Source(str(name), f"optimizer X = ADOPT + {modifier}\n"))
        with pytest.raises(SpecError) as caught:
            check(composed.spec, composed.source)
        found = [d for d in caught.value.diagnostics if d.code == code]
        assert found and found[0].message.startswith(message) and f"# {modifier}" in caught.value.render()
        assert found[0].hint is not None and "put it before the `stop`" in found[0].hint
