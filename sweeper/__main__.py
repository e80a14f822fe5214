"""``python -m sweeper``: the command line, where no script ``sweeper`` is on the path."""

from sweeper.cli.main import main

main()
