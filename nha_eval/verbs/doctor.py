"""`doctor`: what this machine can run."""

EXAMPLE = "Example: [bold]python run_eval.py doctor[/bold]"


def command() -> int:
    """Check versions, device, disk, hub, fetched weights and the operator; exit code 0 when all is well, 1 when
    something needs mending.
    """
    from nha_eval.doctor import examine

    return examine()
