"""The site is safe against what specs say: no text of theirs becomes markup, and no link leads where it should not."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the site needs the extra `docs`")
pytest.importorskip("markdown_it", reason="the site needs the extra `docs`")

from optc.compiler.site import build, gather
from optc.compiler.site import schedules as of_schedules
from optc.compiler.site import storages as of_storages
from optc.compiler.site.coloring import color
from optc.compiler.site.documents import document
from optc.compiler.site.mathml import mathml
from optc.compiler.site.pages import Site, pages
from optc.compiler.site.references import reference
from tests.docs.test_site import Read, through

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>' onclick=x &amp;"


def hostile_files(folder: Path) -> tuple[Path, Path]:
    quoted = f'"{HOSTILE}"'
    optimizer = folder / "hostile.opt"
    optimizer.write_text(
        f"optimizer Hostile:\n    {quoted}\n    cite {quoted}\n    note {quoted}\n    hyper:\n"
        f'        lr = 0.1 in [0, inf) {quoted}\n        kind = {quoted} in {{{quoted}, "b"}} {quoted}\n'
        f"        require lr < 9, {quoted}\n    state:\n        m = 0\n    step:\n"
        f"        m <- ema(m, g, 0.9)  # {HOSTILE}\n        u = m\n        if kind == {quoted}: u = sign(m)\n"
        f"        θ <- θ - lr*u\n",
        encoding="utf-8",
    )
    modifier = folder / "evil.opt"
    modifier.write_text(
        f"modifier evil:\n    {quoted}\n    cite {quoted}\n    note {quoted}\n    hyper:\n"
        f'        kind = {quoted} in {{{quoted}, "b"}} {quoted}\n    project g:\n'
        f"        if kind == {quoted}: g = 2*g  # {HOSTILE}\n",
        encoding="utf-8",
    )
    return optimizer, modifier


def hostile_storage(folder: Path) -> Path:
    storage = folder / "kept.opt"
    storage.write_text(
        f'storage evil:\n    "{HOSTILE}"\n    cite "{HOSTILE}"\n    note "{HOSTILE}"\n    codes = 16\n'
        f"    define level(c) = (c - 7)/8  # {HOSTILE}\n",
        encoding="utf-8",
    )
    return storage


def hostile_schedule(folder: Path) -> Path:
    schedule = folder / "rate.opt"
    schedule.write_text(
        f'schedule evil:\n    "{HOSTILE}"\n    cite "{HOSTILE}"\n    note "{HOSTILE}"\n    hyper:\n'
        f'        kind = "{HOSTILE}" in {{"{HOSTILE}", "b"}} "{HOSTILE}"\n    lr:\n'
        f'        return where(kind == "{HOSTILE}", base, 0)  # {HOSTILE}\n',
        encoding="utf-8",
    )
    return schedule


def test_nothing_of_a_spec_becomes_markup(tmp_path: Path) -> None:
    optimizer_file, modifier_file = hostile_files(tmp_path)
    optimizer = gather.optimizer("hostile", optimizer_file)
    modifier = gather.modifier("evil", modifier_file, {"hostile": optimizer})
    storage = of_storages.storage("evil", hostile_storage(tmp_path), {})
    language = f"# {HOSTILE}\n\n## {HOSTILE}\n\n{HOSTILE}\n\n<b>x</b>\n\n```opt\n{HOSTILE}\n```\n\n[x](javascript:alert(1))\n"
    schedule = of_schedules.schedule("evil", hostile_schedule(tmp_path))
    texts = {"language": ("Language", language)}
    site = Site({"hostile": optimizer}, {"evil": modifier}, texts, {"evil": storage}, {"evil": schedule})
    pictures = build.draw(site, None, through)
    build.write_site(tmp_path / "site", pages(site, pictures))
    found = [Read(path) for path in (tmp_path / "site").rglob("*.html")]
    assert len(found) == 6
    for page in found:
        assert page.count("script") == 1 and page.count("img") == 0 and not (page.path.stem == "language" and page.count("b"))
        handlers = [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        assert handlers == [] and not any(link.startswith("javascript") for link in page.links())
        assert "alert(1)" in page.text


def test_equations_and_colours_escape_what_they_quote() -> None:
    assert "<script>" not in mathml(r"a < \text{``<script>''} \mathrm{<b>}") and "<b>" not in str(color('x = "<b>" # <b>'))
    assert "<b>" not in str(document("<b>raw</b> `<b>`\n\n```opt\n<b>\n```\n").body)


@pytest.mark.parametrize("latex", [r"\href{x}{y}", r"\left( x", r"\frac{a}", r"a } b", r"\begin{array} x \end{array}"])
def test_unknown_latex_is_refused(latex: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        mathml(latex)


def test_references_lead_to_known_places_only() -> None:
    assert reference("arXiv:1711.05101").url == "https://arxiv.org/abs/1711.05101"
    assert reference("arXiv:1711.05101").year == 2017
    assert reference("doi:10.1137/0330046").url == "https://doi.org/10.1137/0330046"
    for text in ("arXiv:../x", "javascript:alert(1)", "doi:10.1/x", "https://example.org", "github.com/a/b/../c", "doi:x y"):
        assert reference(text).url is None
