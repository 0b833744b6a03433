"""``python -m fastmirror``: the same command line as the ``fastmirror`` script."""

from fastmirror.cli import main

if __name__ == "__main__":
    main()
