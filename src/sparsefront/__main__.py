"""Runs the command line as ``python -m sparsefront``."""

from sparsefront.search.cli import main

if __name__ == "__main__":
    main()
