"""What the files here share."""

from interpreting import answers, interpreters  # noqa: F401
