"""The verbs of the command line, one file each: a function `command` (typer reads its signature and docstring) and an
EXAMPLE.
"""
