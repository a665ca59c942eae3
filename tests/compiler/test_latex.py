"""The equations: what single expressions look like, and that every shipped spec gives LaTeX that a renderer takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optc.compiler.latex import expression, latex, name
from optc.dsl import nodes
from optc.dsl.parse import parse
from optc.dsl.read import read
from optc.dsl.source import Source
from tests.oracle import WRITTEN_OUT

SPECS = WRITTEN_OUT

KATEX = set(
    r"""\alpha \beta \gamma \delta \varepsilon \zeta \eta \theta \iota \kappa \lambda \mu \nu \xi \pi \rho \sigma \tau
    \upsilon \phi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega \hat \bar \tilde
    \mathrm \mathcal \text \textbf \operatorname \frac \sqrt \left \right \Vert \lfloor \rfloor \langle \rangle \leftarrow
    \le \ge \ne \neg \wedge \vee \bmod \sum \cdot \times \infty \top \begin \end \quad \exp \ln \log \sin \cos \tanh \min
    \max \_ \, \\""".split()
)


def written(text: str) -> nodes.Expression:
    (statement,) = parse(Source("<test>", f"optimizer T:\n    step: u = {text}\n")).optimizer.step
    assert isinstance(statement, nodes.Assign)
    assert not isinstance(statement.value, tuple)
    return statement.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m̂/(√v̂ + ε)", r"\frac{\hat{m}}{\sqrt{\hat{v}} + \varepsilon}"),
        ("a/b*c", r"\frac{a}{b}\,c"),
        ("a*(b*c)", r"a\,\left(b\,c\right)"),
        ("a - (b - c)", r"a - \left(b - c\right)"),
        ("a - b - c", "a - b - c"),
        ("a*-b", r"a\,\left(-b\right)"),
        ("-x^2", "-x^{2}"),
        ("(-x)^2", r"\left(-x\right)^{2}"),
        ("(a/b)^2", r"\left(\frac{a}{b}\right)^{2}"),
        ("2^-x", "2^{-x}"),
        ("2*3", r"2 \cdot 3"),
        ("1e-3*x", r"10^{-3}\,x"),
        ("1.5e-8", r"1.5 \times 10^{-8}"),
        ("β₂ₜ", r"\beta_{2,t}"),
        ("ema(m, g, β1)", r"\beta_{1}\,m + \left(1 - \beta_{1}\right)\,g"),
        ("debias(v, β2)", r"\frac{v}{1 - \beta_{2}^{t}}"),
        ("where(a > 0, b, c)", r"\begin{cases} b & \text{if } a > 0 \\ c & \text{otherwise} \end{cases}"),
        ("x*where(a > 0, b, c)", r"x\,\left(\begin{cases} b & \text{if } a > 0 \\ c & \text{otherwise} \end{cases}\right)"),
        ("|x|", r"\left|x\right|"),
        ("a and not b or c", r"a \wedge \neg b \vee c"),
        ("(a or b) and c", r"\left(a \vee b\right) \wedge c"),
        ("t mod 2", r"t \bmod 2"),
        ("rowmean(g^2)", r"\operatorname{mean}_{\mathrm{row}}\left(g^{2}\right)"),
        ("colmax(|g|)", r"\max_{\mathrm{col}}\left(\left|g\right|\right)"),
        ("total(a*b) + c", r"\sum_{\mathrm{model}} a\,b + c"),
        ("total(a + b)*c", r"\left(\sum_{\mathrm{model}} \left(a + b\right)\right)\,c"),
        ("c/total(‖g‖)^2", r"\frac{c}{\left(\sum_{\mathrm{model}} \left\Vert g\right\Vert \right)^{2}}"),
        ("total_norm(g)^2", r"\left\Vert g\right\Vert _{\mathrm{model}}^{2}"),
        ("loss/total_norm(g)^2", r"\frac{\mathcal{L}}{\left\Vert g\right\Vert _{\mathrm{model}}^{2}}"),
        ("outer(R, C + 1)/a", r"\frac{R\,\left(C + 1\right)^{\top}}{a}"),
    ],
)
def test_an_expression_is_set_as_in_a_paper(text: str, expected: str) -> None:
    assert expression(written(text)) == expected


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("theta", r"\theta"),
        ("eps", r"\varepsilon"),
        ("m_hat", r"\hat{m}"),
        ("beta2_t", r"\beta_{2,t}"),
        ("rho_inf", r"\rho_{\infty}"),
        ("inf", r"\infty"),
        ("loss", r"\mathcal{L}"),
        ("loss_avg", r"\mathrm{loss\_avg}"),
        ("delta_min", r"\delta_{\mathrm{min}}"),
        ("exp_avg", r"\mathrm{exp\_avg}"),
        ("lr", r"\mathrm{lr}"),
        ("G0", "G_{0}"),
        ("Delta", r"\Delta"),
        ("Rho", r"\mathrm{P}"),
    ],
)
def test_a_name_is_set_by_its_parts(identity: str, expected: str) -> None:
    assert name(identity) == expected


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_shipped_spec_is_balanced_and_uses_known_commands_only(path: Path) -> None:
    text = latex(parse(read(path)))
    assert set(re.findall(r"\\(?:[A-Za-z]+|.)", text)) <= KATEX
    assert text.count("{") == text.count("}")
    assert text.count(r"\left") - text.count(r"\leftarrow") == text.count(r"\right")
    assert re.findall(r"\\begin\{(\w+)\}", text).count("aligned") == text.count(r"\end{aligned}") >= 1
    assert not re.search(r"\^\{[^{}]*\}\^", text), "two powers on one base"


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_line_of_every_shipped_spec_renders(path: Path) -> None:
    mathtext = pytest.importorskip("matplotlib.mathtext", reason="the renderer is part of the extra `demo`")
    parser = mathtext.MathTextParser("path")
    rendered = 0
    for line in latex(parse(read(path))).splitlines():
        if not line.startswith("  ") or "cases" in line or r"\textbf" in line:  # environments are beyond this renderer
            continue
        plain = line.removesuffix(r"\\").replace("&", "").replace(r"\operatorname", r"\mathrm")
        plain = plain.replace(r"\bmod", r"\mathrm{mod}")
        parser.parse(f"${plain.strip()}$")
        rendered += 1
    assert rendered > 0
