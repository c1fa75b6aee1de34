"""What a shell completes beyond verbs and options: names of presets, suites, tasks, specs, plots and tables. Each function
takes what is typed so far and gives the names there are; typer keeps those that begin with it.
"""

from pathlib import Path

ROOT = Path(__file__).parent


def presets(incomplete: str) -> list[str]:
    from nha_eval.listing import preset_names

    return preset_names()


def suites(incomplete: str) -> list[str]:
    from tasks.suites import suite_names

    return suite_names()


def tasks(incomplete: str) -> list[str]:
    from tasks.suites import suite_names, suite_tasks

    return sorted({task.name for suite in suite_names() for task in suite_tasks(suite)})


def plots(incomplete: str) -> list[str]:
    from nha_eval.plots import plot_kinds

    return plot_kinds()


def tables(incomplete: str) -> list[str]:
    return _specs("tables")


def evaluations(incomplete: str) -> list[str]:
    return _specs(".")


def trainings(incomplete: str) -> list[str]:
    return _specs("training")


def hybrids(incomplete: str) -> list[str]:
    return _specs("hybridize")


def _specs(folder: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / folder / "specs").glob("*.yaml"))
