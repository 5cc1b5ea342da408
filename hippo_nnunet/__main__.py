"""The `hippo-nnunet` program, also as `python -m hippo_nnunet`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the program; Ctrl-C ends it without a traceback, also while it is being imported."""
    try:
        from hippo_nnunet.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Aborted!\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
