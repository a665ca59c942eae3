"""The pages of schedules: complete, their examples run, and what they call the same elsewhere is the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("markdown_it", reason="the site needs the extra `docs`")
pytest.importorskip("matplotlib", reason="the site needs the extra `docs`")

import torch

import optc
from optc import schedules
from optc.cli.main import run
from optc.compiler.compose.expand import expand
from optc.compiler.pipeline import plan_program
from optc.compiler.site.index import search_text
from optc.compiler.site.pages import Site, pages, usage_of_schedule, usage_of_schedule_in_specs
from optc.compiler.site.schedule_examples import CALLS, EQUAL, IN_SPECS, SHOWN, SMALL
from optc.compiler.site.schedule_pictures import describe, schedule_picture
from optc.compiler.site.schedules import SchedulePage, schedule
from optc.dsl.check import check
from optc.dsl.source import Source

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {path.stem: path for path in sorted((ROOT / "specs" / "schedules").glob("*.opt"))}
LR = 0.3
STEPS = 999  # OneCycleLR has no more


@pytest.fixture(scope="module")
def found() -> dict[str, SchedulePage]:
    return {slug: schedule(slug, path) for slug, path in SHIPPED.items()}


@pytest.fixture(scope="module")
def read(found: dict[str, SchedulePage]) -> dict[str, str]:
    pictures = {s.file: (schedule_picture(s.name, s.curves),) for s in found.values()}
    return dict(pages(Site({}, {}, {}, {}, found), pictures))


def words(text: str) -> str:
    """The text of a page without its elements, spaces and backticks."""
    plain = re.sub(r"<[^>]*>", "", text)
    for entity, letter in (("&#34;", '"'), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        plain = plain.replace(entity, letter)
    return "".join(plain.replace("`", "").split())


# --- completeness -------------------------------------------------------------------------------------------------------------


def test_what_is_written_by_hand_is_of_schedules_that_there_are() -> None:
    assert set(CALLS) == set(EQUAL) == set(SHOWN) == set(SHIPPED) and len(SHIPPED) >= 14
    assert set(IN_SPECS) <= set(SHIPPED) and set(SMALL) <= set(SHIPPED)
    assert all(len(settings) == 2 for settings in SHOWN.values())


@pytest.mark.parametrize("slug", SHIPPED)
def test_a_page_tells_all_of_its_schedule(found: dict[str, SchedulePage], read: dict[str, str], slug: str) -> None:
    s, page = found[slug], read[f"schedules/{slug}.html"]
    wanted = [s.text, *s.notes, SHIPPED[slug].read_text(encoding="utf-8"), s.file, describe(s.curves)]
    wanted += [usage_of_schedule(s), usage_of_schedule_in_specs(s), s.equations.latex]
    wanted += [text for row in s.hypers for text in (row.key, row.default, row.allowed, row.text)]
    wanted += [call for pair in s.equal for call in pair]
    assert [w for w in wanted if "".join(w.replace("`", "").split()) not in words(page)] == []
    assert all(f'href="{r.url}"' in page for r in s.references if r.url)
    assert page.count('<svg class="plot"') == 1 and page.count("<math") >= sum(map(len, s.equations.blocks)) > 0
    assert all(f'href="{other}.html"' in page for other in SHIPPED if other != slug)
    assert [row.key for row in s.hypers] == [hyper.key for hyper in getattr(schedules, s.class_name).hypers]


def test_the_index_lists_schedules_with_small_curves(found: dict[str, SchedulePage], read: dict[str, str]) -> None:
    index = read["index.html"]
    rows = re.findall(r'<tr data-family="Schedules".*?</tr>', index, re.DOTALL)
    assert len(rows) == len(SHIPPED) and index.count('data-family="Schedules" aria-pressed') == 1
    for row, (slug, s) in zip(rows, found.items(), strict=True):
        assert f'href="schedules/{slug}.html"' in row and row.count('class="spark"') == 1 and s.text[:20] in row
    assert "PyTorch, transformers" in rows[list(SHIPPED).index("cosine")]


def test_a_schedule_is_found_by_what_it_is_called_elsewhere(found: dict[str, SchedulePage]) -> None:
    for word, slug in (
        ("cosineannealinglr", "cosine"),
        ("onecyclelr", "one_cycle"),
        ("get_wsd_schedule", "warmup_stable_decay"),
    ):
        assert [name for name, s in found.items() if word in search_text(s)] == [slug]
    assert {n for n, s in found.items() if "momentum" in search_text(s)} == {"cyclic", "one_cycle"}


# --- pictures -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SHIPPED)
def test_a_picture_shows_the_defaults_and_telling_settings(found: dict[str, SchedulePage], slug: str) -> None:
    s = found[slug]
    kind = getattr(schedules, s.class_name)
    for curve, settings in zip(s.curves, ({}, *SHOWN[slug]), strict=True):
        rate = kind(**settings)
        assert list(curve.rates) == [rate(n) for n in curve.steps]
    assert len({curve.rates for curve in s.curves}) == 3 and len({curve.steps for curve in s.curves}) == 1
    picture = schedule_picture(s.name, s.curves)
    assert all(f">{curve.name}<" in str(picture.svg) for curve in s.curves)
    assert (">momentum<" in str(picture.svg)) == kind().has_momentum
    assert "var(--plot-path)" in picture.svg and not re.search(r"#0[1-6]0[1-6]0[1-6]", str(picture.svg))
    assert picture == schedule_picture(s.name, s.curves)


def test_numbers_on_a_scale_keep_their_digits(found: dict[str, SchedulePage]) -> None:
    svg = str(schedule_picture("one_cycle", found["one_cycle"].curves).svg)
    assert all(f">{number}<" in svg for number in ("0.85", "0.90", "0.95", "0.2", "1000"))


def test_a_picture_is_told_in_words(found: dict[str, SchedulePage]) -> None:
    said = (
        "the rate is 0.04 at first and 4e-06 after 1000 steps, 1 at most (step 299); the momentum lies between 0.85 and 0.95."
    )
    assert describe(found["one_cycle"].curves[:2]) == f"defaults: {said} shape = linear: {said}"
    (last,) = found["linear"].curves[2:]
    assert describe([last]) == "ratio = 0.3: the rate is 1 at first and 0.3 after 1000 steps."


def test_the_small_curve_goes_where_the_schedule_goes(found: dict[str, SchedulePage]) -> None:
    (points,) = re.findall(r'points="([^"]*)"', str(found["linear"].spark))
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    x, y = zip(*places, strict=True)
    assert list(x) == sorted(x) and list(y) == sorted(y) and len(places) == 90
    assert y[0] == 1.5 and y[-1] == 20.5  # from the top to the bottom


# --- what they tell users to write --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", SHIPPED)
def test_a_schedule_can_be_used_as_its_page_says(found: dict[str, SchedulePage], slug: str) -> None:
    s = found[slug]
    weights = torch.nn.Parameter(torch.ones(3))
    known: dict[str, Any] = {"optimizer": torch.optim.SGD([weights], lr=1e-3, momentum=0.9)}
    exec(usage_of_schedule(s), known)
    assert isinstance(known["rate"], getattr(schedules, s.class_name))
    assert known["scheduler"].get_last_lr() == [known["rate"](0, 1e-3)]
    (name,) = (n for n, value in known.items() if isinstance(value, type) and issubclass(value, torch.optim.Optimizer))
    compiled = known[name]([weights], lr=0.1)
    weights.grad = torch.ones(3)
    compiled.step()
    assert compiled.param_groups[0]["steps_done"] == 1
    expected = 1 - 0.1 * known["rate"](0) if name.endswith("SGD") else None
    assert expected is None or weights.tolist() == pytest.approx([expected] * 3)


@pytest.mark.parametrize("slug", SHIPPED)
def test_the_same_can_be_written_in_a_spec(
    found: dict[str, SchedulePage], slug: str, capsys: pytest.CaptureFixture[str]
) -> None:
    s = found[slug]
    lines = usage_of_schedule_in_specs(s).splitlines()
    composition = expand(Source("<page>", lines[1] + "\n"))
    plan_program(check(composition.spec, composition.source))
    called = optc.schedule(s.term)
    same = eval(f"{s.class_name}({s.call})", {s.class_name: getattr(schedules, s.class_name)})
    assert [called(n, LR) for n in range(STEPS)] == pytest.approx([same(n, LR) for n in range(STEPS)], rel=1e-12)
    mine = optc.schedule(lines[4] + "\n")
    assert mine(50, LR) == LR and mine(350, LR) == pytest.approx(same(250, LR), rel=1e-12)
    (argument,) = re.findall(r'^optc plot "(.*)"$', lines[-1])
    assert run(["plot", argument, "--json"]) == 0 and '"lr"' in capsys.readouterr().out


PAIRS = [(slug, *pair) for slug, pairs in EQUAL.items() for pair in pairs]


@pytest.mark.parametrize(("slug", "ours", "theirs"), PAIRS, ids=[theirs.partition("(")[0] for _, _, theirs in PAIRS])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_called_the_same_is_the_same(found: dict[str, SchedulePage], slug: str, ours: str, theirs: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers has these schedules")
    assert ours.startswith(f"{found[slug].class_name}(")
    rate = eval(ours, {found[slug].class_name: getattr(schedules, found[slug].class_name)})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    highest = 0.95 if "OneCycle" in theirs else 0.9  # as PyTorch has them
    scheduler = eval(theirs, {"torch": torch, "transformers": transformers, "optimizer": optimizer, "lr": LR})
    for n in range(STEPS):
        group = optimizer.param_groups[0]
        assert abs(rate(n, LR) - float(group["lr"])) <= 1e-12 * LR, n
        if rate.has_momentum:
            assert abs((rate.momentum(n, highest) or 0.0) - group["momentum"]) <= 1e-12, n
        optimizer.step()
        scheduler.step()
