"""What `sh run demo` does: the digits example, then where to go from there. Arguments go to the example."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NEXT = """
next:
  sh run optc explain adamw --stage plan                what the compiler made of ten lines of maths
  sh run optc new MyOptimizer                           a starter spec of your own
  sh run python examples/char_transformer/train.py      a transformer trained with an invented optimizer (2 minutes)"""


def main() -> int:
    """The exit status of the example."""
    status = subprocess.call([sys.executable, str(Path(__file__).with_name("digits.py")), *sys.argv[1:]])
    if status == 0 and not {"-h", "--help"} & set(sys.argv):
        print(NEXT)
    return status


if __name__ == "__main__":
    sys.exit(main())
