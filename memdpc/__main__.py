"""`python -m memdpc` is the command line; the notebook 40_cli defines it."""

from memdpc.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
