"""The `ntre` command line: one file per sub-command, each thin, each importing what it needs when it runs."""
