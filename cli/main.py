"""`optc`: the group of commands, what their help looks like, and how errors end the process.

Exit status: 0 fine, 1 the user's mistake (or `--check` found something), 2 wrong usage, 70 a bug in optc, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import tempfile
import traceback
from typing import NoReturn

import click

from optc import __version__
from optc.cli.build import build
from optc.cli.check import check
from optc.cli.docs import docs
from optc.cli.explain import explain
from optc.cli.fmt import fmt
from optc.cli.list import list_specs
from optc.cli.new import new
from optc.cli.output import note, say_json, show_error, wants_color
from optc.cli.plot import plot
from optc.dsl.errors import OptcError

BUG = 70
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show a Python traceback for every error.")
@click.version_option(__version__, prog_name="optc")
def cli(debug: bool) -> None:
    """Compile optimizers from math specs to PyTorch, native C++ and Triton.

    A SPEC is a file (my.opt), the name of a shipped spec (adamw), or - for standard input.

    \b
    Start here:
      optc list                        what is shipped
      optc explain adamw               a spec and all that is made of it
      optc new MyOptimizer             a starter spec, my_optimizer.opt
      optc check my_optimizer.opt      is it right?
      optc build my_optimizer.opt -o . a module to import
      optc plot cosine                 learning rates over the steps

    With --json the answer is one object. Its "errors" are always there, a list with file, line, column, end_line,
    end_column (null where there is no place), code, message and hint; what else there is, each command says.

    Exit status: 0 fine, 1 a mistake in a spec or file, 2 wrong usage, 70 a bug in optc.
    Colours follow NO_COLOR and FORCE_COLOR.

    \b
    Completion in bash (zsh, fish alike):
      eval "$(_OPTC_COMPLETE=bash_source optc)"
    """


for command in (build, check, explain, list_specs, new, fmt, plot, docs):
    cli.add_command(command)


def main() -> NoReturn:
    """The entry point of the command line."""
    sys.stdout = sys.stdout or io.StringIO()  # None where it is closed, as under `optc list >&-`
    sys.stderr = sys.stderr or io.StringIO()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # β in a pipe that only takes ASCII is no reason to fail
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs a command line and returns its exit status; never lets an exception out, unless `--debug` is given."""
    debug = "--debug" in arguments
    try:
        status = cli.main(arguments, prog_name="optc", standalone_mode=False, color=wants_color())
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        note("interrupted: no file was left half written")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (`optc list | head -3`). Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OptcError as error:
        if debug:
            traceback.print_exc()
        end_with(error, as_json="--json" in arguments)
        return 1
    except OSError as error:
        if debug:
            traceback.print_exc()
        mistake = OptcError(f"{error.filename or 'input or output'}: {error.strerror or error}")
        end_with(mistake, as_json="--json" in arguments)
        return 1
    except Exception as error:
        if debug:
            raise
        report_bug(error)
        return BUG


def end_with(error: OptcError, as_json: bool) -> None:
    """The mistake that ended the command, where its answer is looked for."""
    if as_json:
        say_json([error])
    else:
        show_error(error)


def report_bug(error: Exception) -> None:
    """One line that says it is our fault, and where the traceback was saved."""
    text = "".join(traceback.format_exception(error))
    about = f"optc {__version__}, Python {platform.python_version()}, {platform.platform()}\narguments: {sys.argv[1:]}\n\n"
    with tempfile.NamedTemporaryFile("w", prefix="optc-bug-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(about + text)
    summary = " ".join(str(error).split())[:200]
    note(f"bug in optc ({type(error).__name__}: {summary}); please report it with {file.name}, or see it with optc --debug ...")
