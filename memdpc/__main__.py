"""`python -m memdpc` is the command line."""

from memdpc.cli import main

if __name__ == "__main__":
    main()
