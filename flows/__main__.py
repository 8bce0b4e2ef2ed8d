"""`python -m flows` is the `headrace` command."""

from flows.command import main

if __name__ == "__main__":
    main()
