"""The command line: `optc build`, `check`, `explain`, `list`, `new`, `fmt`, `plot`, `docs`."""
