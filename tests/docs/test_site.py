"""The documentation site: complete, linked, safe against what specs say, and alive in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("matplotlib", reason="the site needs the extra `docs`")
pytest.importorskip("markdown_it", reason="the site needs the extra `docs`")

from optc.cli import docs as command
from optc.cli.main import run
from optc.compiler.site import build, gather
from optc.compiler.site.level_pictures import describe
from optc.compiler.site.pages import Site, pages
from optc.compiler.site.pictures import Painter
from optc.compiler.site.schedules import SchedulePage
from optc.compiler.site.storages import StoragePage
from optc.compiler.site.trajectories import STEP_SIZES, SURFACES, best_path, follow
from optc.dsl.errors import OptcError

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted(path for path in (ROOT / "specs").rglob("*.opt") if path.parent.name not in ("schedules", "storages"))
MODIFIERS = [path for path in SPECS if path.parent.name == "modifiers"]
OPTIMIZERS = [path for path in SPECS if path not in MODIFIERS]
SCHEDULES = sorted((ROOT / "specs" / "schedules").glob("*.opt"))
STORAGES = sorted((ROOT / "specs" / "storages").glob("*.opt"))
ROWS = len(SPECS) + len(SCHEDULES) + len(STORAGES)
PICTURED = ("adamw", "cautious_lion")


class Read(HTMLParser):
    """Elements with their attributes, ids, links and all text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def links(self) -> Iterator[str]:
        for _, attributes in self.elements:
            yield from (attributes[name] for name in ("href", "src", "xlink:href") if name in attributes)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.elements)


def through(names: Sequence[str], label: str) -> Iterable[str]:
    return names


@pytest.fixture(scope="module")
def site() -> Site:
    return build.shipped_site(through)


@pytest.fixture(scope="module")
def folder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, with the pictures of two optimizers."""
    root = tmp_path_factory.mktemp("docs")
    sample = Site({slug: site.optimizers[slug] for slug in PICTURED}, {}, {}, site.storages, site.schedules)
    pictures = build.draw(sample, root / "cache", through)
    build.write_site(root / "site", pages(site, pictures))
    return root / "site"


@pytest.fixture(scope="module")
def read(folder: Path) -> dict[str, Read]:
    return {path.relative_to(folder).as_posix(): Read(path) for path in sorted(folder.rglob("*.html"))}


# --- completeness -------------------------------------------------------------------------------------------------------------


def test_every_spec_has_a_page_with_its_equations(read: dict[str, Read]) -> None:
    expected = {f"optimizers/{p.stem}.html" for p in OPTIMIZERS} | {f"modifiers/{p.stem}.html" for p in MODIFIERS}
    texts = {f"{p.stem}.html" for p in (ROOT / "docs").glob("*.md")}
    others = {f"{p.parent.name}/{p.stem}.html" for p in (*SCHEDULES, *STORAGES)}
    assert expected | others | {"index.html", *texts} == set(read)
    assert len(OPTIMIZERS) > 20 and "language.html" in texts
    assert [name for name in expected if read[name].count("math") < 2] == []


def test_a_page_tells_all_of_its_spec(site: Site, read: dict[str, Read]) -> None:
    for slug, o in site.optimizers.items():
        page = read[f"optimizers/{slug}.html"]
        wanted = [o.text, *o.notes, *(r.text for r in o.references), *(h.key for h in o.program.hypers)]
        wanted += [h.text for h in o.program.hypers if h.text] + [s.key for s in o.program.states]
        text = "".join(page.text.split())
        assert [w for w in wanted if "".join(w.replace("`", "").split()) not in text] == [], slug
        assert {r.url for r in o.references if r.url} <= set(page.links())


def test_a_modifier_calls_its_hypers_and_states_as_they_are_called_outside(site: Site) -> None:
    for modifier in site.modifiers.values():
        assert modifier.example is not None, modifier.name
        program = modifier.example.program
        assert {row.key for row in modifier.hypers} <= {hyper.key for hyper in program.hypers}, modifier.name
        assert {row.key for row in modifier.states} <= {state.key for state in program.states}, modifier.name


def test_the_cost_on_a_page_is_the_plans(read: dict[str, Read]) -> None:
    text = " ".join(read["optimizers/adamw.html"].text.split())
    assert "state 8 B per parameter moved in a step 28 B per parameter passes over memory 1" in text
    assert "float32 float32 float32 1 16 12 28" in text and "bfloat16 bfloat16 float32 1 12 10 22" in text


def test_links_resolve_and_ids_are_unique(folder: Path, read: dict[str, Read]) -> None:
    broken = []
    for page in read.values():
        assert len(page.ids) == len(set(page.ids)), page.path
        for link in page.links():
            parts = urlsplit(link)
            if parts.scheme in ("https", "data"):
                continue
            assert not parts.scheme and not parts.netloc, link
            target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            anchors = read[target.relative_to(folder).as_posix()].ids if target.suffix == ".html" and target.is_file() else []
            if not target.is_file() or (parts.fragment and parts.fragment not in anchors):
                broken.append(f"{page.path.name}: {link}")
    assert broken == []


def test_the_search_finds_every_row_by_name_family_and_paper(site: Site, read: dict[str, Read]) -> None:
    rows = [attributes["data-search"] for _, attributes in read["index.html"].elements if "data-search" in attributes]
    assert len(rows) == ROWS
    parts: list[gather.Optimizer | gather.Modifier | SchedulePage | StoragePage] = [*site.optimizers.values()]
    parts += [*site.modifiers.values(), *site.schedules.values(), *site.storages.values()]
    for part in parts:
        words = [part.name, part.slug, *(r.text for r in part.references)]
        words += [part.family_title] if isinstance(part, gather.Optimizer) else getattr(part, "stage_names", ())
        assert any(all(word.lower() in row for word in words) for row in rows), part.name


def test_usage_shows_that_a_step_reads_the_loss(read: dict[str, Read]) -> None:
    assert "optimizer.step(lambda: loss)" in read["optimizers/alig.html"].text
    assert "step(lambda" not in read["optimizers/adamw.html"].text


def test_a_page_tells_all_of_its_storage(site: Site, read: dict[str, Read]) -> None:
    assert set(site.storages) == {path.stem for path in STORAGES}
    for slug, s in site.storages.items():
        page = read[f"storages/{slug}.html"]
        wanted = [s.text, *s.notes, (ROOT / s.file).read_text(encoding="utf-8")]
        if s.codes is None:
            wanted.append("row with a number per row and col with a number per column")
        else:
            kept = s.codes.storage
            wanted.append(
                f"{s.codes.bits} bits memory, with scales {kept.bytes:.4g} B per number a scale for {kept.block} numbers"
            )
            wanted += [f"off by at most {100 * kept.error:.2g} % of the largest of the block", describe(s.codes)]
        text = "".join(page.text.split())
        assert [w for w in wanted if "".join(w.split()) not in text] == [], slug
        assert page.count("svg") == (s.codes is not None) and {r.url for r in s.references} <= set(page.links())


def test_storages_and_the_optimizers_that_use_them_lead_to_each_other(site: Site, read: dict[str, Read]) -> None:
    pairs = {(slug, name) for slug, o in site.optimizers.items() for name in o.storages if name in site.storages}
    assert {("adamw_8bit", "udynamic8"), ("adamw_factored", "root_rowcol"), ("lion_4bit", "dynamic4")} <= pairs
    for slug, name in pairs:
        assert f"../storages/{name}.html" in read[f"optimizers/{slug}.html"].links()
        assert f"../optimizers/{slug}.html" in read[f"storages/{name}.html"].links()
    assert "../storages/dynamic8.html" not in read["optimizers/adamw.html"].links()


def test_pictures_say_in_words_what_they_show(read: dict[str, Read]) -> None:
    page = read["optimizers/adamw.html"]
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(plots) == len(SURFACES)
    assert all(p["role"] == "img" and set(p["aria-labelledby"].split()) <= set(page.ids) for p in plots)
    assert "it falls from" in page.text
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", page.path.read_text(encoding="utf-8")), "a placeholder of a colour is left"


# --- pictures -----------------------------------------------------------------------------------------------------------------


def test_paths_are_the_best_of_the_grid_and_the_same_every_time(site: Site) -> None:
    program, surface = site.optimizers["sgd"].program, SURFACES[1]
    path = best_path(program, surface)
    assert path is not None
    again = follow(program, surface, path.lr)
    assert again is not None and (again.points == path.points).all()
    tail = len(path.losses) // 10 + 1
    others = [run for lr in STEP_SIZES if (run := follow(program, surface, lr)) is not None]
    assert path.losses[-tail:].mean() == min(run.losses[-tail:].mean() for run in others)
    assert path.losses[-tail:].mean() < path.losses[0] / 100


def test_gradients_and_hessians_of_the_surfaces_are_those_of_their_losses() -> None:
    import numpy as np

    point, step = np.array([0.3, -0.7]), 1e-5
    for surface in SURFACES:
        ahead = [point + step * axis for axis in np.eye(2)]
        behind = [point - step * axis for axis in np.eye(2)]
        slope = [(surface.loss(*a) - surface.loss(*b)) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
        bend = [(surface.gradient(a) - surface.gradient(b)) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
        assert np.allclose(slope, surface.gradient(point), rtol=1e-6)
        assert np.allclose(np.array(bend), surface.hessian(point), rtol=1e-6)


def test_a_picture_is_drawn_once(site: Site, tmp_path: Path) -> None:
    program = site.optimizers["sgd"].program
    first = Painter({}, tmp_path).pictures(program)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert Painter({}, tmp_path).pictures(program) == first and len(first) == len(SURFACES) == len(files)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


# --- the command --------------------------------------------------------------------------------------------------------------


def test_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(build, "_NEEDED", {"no_such_module": "matplotlib"})
    assert run([command.docs.name or "", "-o", "never"]) == 1
    assert "the documentation needs matplotlib: pip install 'optc[docs]'" in capsys.readouterr().err


def test_no_folder_of_something_else_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OptcError, match="holds something else"):
        build.write_site(tmp_path, [("index.html", "x")])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_second_run_writes_what_changed_and_removes_what_is_gone(tmp_path: Path) -> None:
    mark = "<code>optc docs</code>"
    files = [("index.html", mark), ("optimizers/a.html", "a"), ("optimizers/b.html", "b")]
    assert build.write_site(tmp_path / "new", files) == (3, 3)
    assert build.write_site(tmp_path / "new", [files[0], ("optimizers/a.html", "changed")]) == (2, 1)
    assert sorted(p.name for p in (tmp_path / "new").rglob("*.html")) == ["a.html", "index.html"]


# --- in a browser -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of headless Chromium; a console error fails the test that opened it."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian's package chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1200, "height": 900})
        browser.close()


@pytest.fixture
def errors(page: Page) -> Iterator[list[str]]:
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    yield found
    assert found == []


def test_the_index_searches_and_sorts(page: Page, folder: Path, errors: list[str]) -> None:
    page.goto((folder / "index.html").as_uri())
    assert page.locator("tr[data-search]:visible").count() == ROWS
    page.fill("#find", "1711.05101")
    names = page.locator("tr[data-search]:visible th").all_inner_texts()
    assert "AdamW" in names and "Lion" not in names
    assert page.locator("#found").inner_text() == f"{len(names)} of {ROWS}"
    page.fill("#find", "")
    page.click(".chips button[data-family=Sign]")
    assert {"Lion"} <= set(page.locator("tr[data-search]:visible th").all_inner_texts())
    page.click(".chips button[data-family='']")
    page.click("#optimizers th[data-sort=number] button")
    values = [float(text) for text in page.locator("#optimizers tbody td:nth-child(4)").all_inner_texts()]
    assert values == sorted(values) and values[0] < values[-1]


def test_a_page_shows_its_equations_and_pictures_in_light_and_dark(page: Page, folder: Path, errors: list[str]) -> None:
    page.goto((folder / "optimizers" / "adamw.html").as_uri())
    boxes = [box for math in page.locator(".algorithm math").all() if (box := math.bounding_box())]
    assert len(boxes) == page.locator(".algorithm li").count() > 5
    assert all(box["width"] > 10 and box["height"] > 10 for box in boxes)
    assert page.locator("svg.plot").first.bounding_box() is not None
    paper = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(paper)
    page.click("button.theme")
    assert page.evaluate(paper) != before


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "optimizers/adamw.html",
        "modifiers/cautious.html",
        "schedules/one_cycle.html",
        "storages/dynamic8.html",
        "language.html",
    ],
)
def test_no_page_is_wider_than_a_telephone(page: Page, folder: Path, name: str, errors: list[str]) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto((folder / name).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
