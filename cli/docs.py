"""`optc docs`: the documentation site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from optc.cli import output
from optc.dsl.errors import OptcError


@click.command(short_help="Write the documentation site.")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("site"),
    show_default=True,
    help="The folder to write to: a new one, an empty one, or a site to bring up to date.",
)
@click.option("--pictures/--no-pictures", default=True, help="Paths on test functions; slow the first time, then kept.")
def docs(folder: Path, pictures: bool) -> None:
    """Write a site of static pages: an index of the shipped optimizers, modifiers, schedules and storages, a page for each,
    and the language.

    It needs no server: open index.html. Pictures are kept in the user's cache by what goes into them.

    \b
    Examples:
      optc docs
      optc docs -o public --no-pictures
    """
    from optc.compiler.site import build, pages

    absent = build.missing()
    if absent:
        raise OptcError(f"the documentation needs {' and '.join(absent)}: pip install 'optc[docs]'")

    def through(names: Sequence[str], label: str) -> Iterable[str]:
        with output.progress(names, label) as shown:
            yield from shown

    site = build.shipped_site(through)
    drawn = build.draw(site, _cache(), through) if pictures else {}
    count, written = build.write_site(folder, pages.pages(site, drawn))
    output.say(f"{folder / 'index.html'}: {count} files, {written} written")


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("optc")) / "docs"
