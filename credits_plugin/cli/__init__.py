"""The commands of ``credits``: one file per group with ``add_parser(commands)``; each returns its exit code."""
