"""``python -m handfast``: the command line, for where no script was installed."""

from handfast.cli.main import main

if __name__ == "__main__":
    main()
