#!/usr/bin/env python3
"""Print the README's table of targets from files of `python -m benchmarks`; where two speak of one, the last counts.

python scripts/benchmark_table.py results/benchmarks/*.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.document import read_document
from benchmarks.targets import table
from hippo_nnunet.errors import HippoError

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        print(table([read_document(Path(name)) for name in sys.argv[1:]]))
    except HippoError as error:
        sys.exit(f"error: {error}")
