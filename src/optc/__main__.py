"""`python -m optc` is the command `optc`."""

from optc.cli.main import main

if __name__ == "__main__":
    main()
