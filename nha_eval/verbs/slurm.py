"""`slurm`: a spec as an array of jobs."""

from pathlib import Path
from typing import Annotated

import typer

from nha_eval import completing

EXAMPLE = "Example: [bold]python run_eval.py slurm quickstart --jobs 4 --gpus 1 --time 02:00:00 --partition gpu[/bold]"


def command(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC.yaml", help="A spec file, or the name of a shipped one.", autocompletion=completing.evaluations
        ),
    ],
    jobs: Annotated[int, typer.Option(min=1, help="Jobs of the array; each does a share of the cells.")] = 4,
    cpus: Annotated[int, typer.Option(min=1, help="Cores of a job.")] = 8,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a job: 0 or 1, as a worker takes one.", max=1)] = 1,
    time: Annotated[str, typer.Option(help="Most time of a job, as SLURM takes it.")] = "24:00:00",
    partition: Annotated[str | None, typer.Option(help="The cluster's partition.")] = None,
    account: Annotated[str | None, typer.Option(help="The account that pays.")] = None,
    out: Annotated[str | None, typer.Option(help="Run folder, as of `eval`. Default: results/runs/NAME.")] = None,
    script: Annotated[Path | None, typer.Option(help="Where to write the script. Default: NAME.sbatch.")] = None,
) -> int:
    """Write a SLURM script that evaluates a spec as an array of jobs, and print how to queue it."""
    from nha_eval import slurm
    from nha_eval.errors import UserError
    from nha_eval.spec import find_spec, make_spec, read_spec

    path = find_spec(spec)
    checked = make_spec(read_spec(path), {}, where=str(path))
    if checked.share or checked.executor != "local":
        raise UserError(f"{path} sets a share or an executor, which the script itself does: leave them out")
    # A shipped spec goes by its name, a file by where it lies.
    given = str(path.absolute()) if Path(spec).expanduser().is_file() else spec
    more = () if out is None else ("--out", out)
    wanted = slurm.Jobs(jobs, cpus, gpus, time, partition, account)
    text = slurm.script(given, f"nha-eval-{path.stem}", wanted, str(Path.cwd()), *more)
    target = script or Path(f"{path.stem}.sbatch")
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise UserError(f"cannot write {target}: {problem.strerror}; give another place with --script") from problem
    print(f"{target}: {jobs} jobs; queue them, and what gathers their shares, with")
    print(slurm.gathering(given, str(target), *more))
    return 0
