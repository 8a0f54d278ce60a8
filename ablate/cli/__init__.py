"""The command line: verbs and rendering; every answer comes from the rooms below."""

from ablate.cli.app import main

__all__ = ["main"]
