"""`bench op`, `bench model`: time and memory of the operator and of whole models beside their peers; `bench harness`: what the
evaluation itself costs beside plain lm-eval; `bench show`: the same of figures that are there already."""

import os
from typing import Annotated

import typer

HELP = "Time and memory of the operator, of whole models and of the harness, beside their peers, measured in one run."
EXAMPLES = {
    "op": (
        "Example: [bold]python run_eval.py bench op --shape A --length 2048,32768 --only nha,flex[/bold]\n\n"
        "The same command goes on where it stopped; figures of another machine or of changed kernels need "
        "[bold]--fresh[/bold] or another [bold]--out[/bold]."
    ),
    "model": (
        "Example: [bold]python run_eval.py bench model --model transformer++,nha --length 2048,32768 --phase decode[/bold]\n\n"
        "The same command goes on where it stopped, and several with unlike [bold]--model[/bold] fill one folder; figures of "
        "another machine or of changed sources need [bold]--fresh[/bold] or another [bold]--out[/bold]."
    ),
    "harness": (
        "Example: [bold]python run_eval.py bench harness --task commonsense_social_iqa --limit 100[/bold]\n\n"
        "The same command goes on where it stopped; figures of another machine or of changed sources need [bold]--fresh[/bold] "
        "or another [bold]--out[/bold]."
    ),
    "show": "Example: [bold]python run_eval.py bench show results/runs/bench-op[/bold]",
}
MOST = 2**31 - 1  # tokens or sequences: positions are 32 bits wide in places
OUT, MODEL_OUT, HARNESS_OUT = "results/runs/bench-op", "results/runs/bench-model", "results/runs/bench-harness"
BASE = "smollm2-135m"
HARNESS_TASK = "commonsense_social_iqa"


def op(
    shape: Annotated[list[str] | None, typer.Option(help="A (Llama-3-8B), B (340M), tiny. Default: A,B.")] = None,
    length: Annotated[
        list[str] | None,
        typer.Option(help="Tokens: 2048,32768. Default: 2048 to 131072 on a GPU (32768 with the backward), 256,512 on a CPU."),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(help="Windows of those that have one. Default: 64, and 1024 at 32768 tokens (256 at 512 on a CPU)."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Implementations: nha,flex. Default: all.")] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(help="forward, forward+backward, forward packed, forward+backward packed, decode. Default: all."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shape A at three lengths.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32. auto: bfloat16 on a GPU.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    warmup: Annotated[float, typer.Option(help="Milliseconds of warm-up for a row.")] = 10.0,
    repeat: Annotated[float, typer.Option(help="Milliseconds of repeats for a row; at least five are made.")] = 50.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what the folder holds.")] = False,
    out: Annotated[str, typer.Option(metavar="PATH", help="Folder of the table, environment.json and picture.")] = OUT,
) -> int:
    """Time and memory of the operator beside its peers: forward, with backward, packed, decode.

    Nothing is timed before it is right. What cannot be had here is a row with its reason.
    """
    from nha_eval.errors import UserError
    from nha_eval.paths import user_path

    _check_seed(seed)
    place = user_path(out, "--out")
    lengths, windows = _integers("length", length, least=16), _integers("window", window, least=0)
    if not (0 <= warmup < float("inf") and 0 <= repeat < float("inf")):
        raise UserError(f"--warmup {warmup:g} --repeat {repeat:g}: wanted are milliseconds, 0 or more")
    _wait_idly()
    from nha_eval.bench.machine import resolve_device
    from nha_eval.bench.op import OpRun, run

    chosen, kind = resolve_device(device, dtype)
    from nha_eval.bench.grid import plan
    from nha_eval.bench.timing import Budget

    cases = plan(
        device_type=chosen.type,
        shapes=_split("shape", shape),
        lengths=lengths,
        windows=windows,
        phases=_split("phase", phase),
        only=_split("only", only),
        quick=quick,
    )
    return run(OpRun(cases, chosen, kind, place, seed, Budget(warmup, repeat), fresh))


def model(
    model: Annotated[
        list[str] | None,
        typer.Option(help="nha,transformer++ and other patterns, peers such as hf-llama, checkpoints. Default: all but these."),
    ] = None,
    size: Annotated[list[str] | None, typer.Option(help="tiny, 340m, 1.3b. Default: 1.3b on a GPU, tiny on a CPU.")] = None,
    length: Annotated[
        list[str] | None,
        typer.Option(
            help="Tokens, and `longest` that fits: 2048,longest. Default: 512 to 131072 on a GPU (2048 to 32768 in training)."
        ),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(help="Sequences, and the `largest` batch that fits, which is for decode alone. Default: 1,largest."),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(
            help="Tokens, a share of the length, a setting's name: 64,T/8. Default: 64; for nha 0,64,1024,T/8 (less on a CPU)."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="YAML of windows a layer, by name, as of `eval`. Repeatable. --window names them."),
    ] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(help="prefill, decode, train; on a GPU also prefill-graph, train-graph. Default: the first three."),
    ] = None,
    checkpointing: Annotated[
        list[str] | None,
        typer.Option(help="Training with activations made again in the backward: off, on, or off,on. Default: on from 16384."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Four models at two lengths.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32. auto: bfloat16 on a GPU.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of weights, tokens and caches.")] = 0,
    seconds: Annotated[float, typer.Option(help="Of a row, after its first call; three repeats are made even so.")] = 2.0,
    repeats: Annotated[int, typer.Option(help="At most, for a row.")] = 20,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what the folder holds.")] = False,
    out: Annotated[str, typer.Option(metavar="PATH", help="Folder of the table, environment.json and picture.")] = MODEL_OUT,
) -> int:
    """What whole models with random weights cost against length: prefill, decoding, a training step.

    A length or batch that does not fit is a row `oom`; what cannot be had here is a row with its reason.
    """
    from nha_eval.errors import UserError
    from nha_eval.paths import user_path

    _check_seed(seed)
    place = user_path(out, "--out")
    lengths = _counted("length", length, least=16, word="longest")
    batches = _counted("batch", batch, least=1, word="largest")
    from nha_eval.window_settings import gather

    known = gather(settings or [], "--settings")
    windows = _counted("window", window, least=0, share=True, names=tuple(known))
    used = {name: known[name] for name in windows or () if name in known}
    if known and not used:
        raise UserError(f"--settings: no window names one of its settings ({', '.join(list(known)[:8])}): add --window NAME")
    ways = _split("checkpointing", checkpointing)
    for way in ways or ():
        if way not in ("on", "off"):
            raise UserError(f"--checkpointing {way!r}: wanted is on, off, or off,on")
    if not 0 < seconds < float("inf") or repeats < 1:
        raise UserError(f"--seconds {seconds:g} --repeats {repeats}: wanted are more than 0 seconds and at least 1 repeat")
    _wait_idly()
    from nha_eval.bench.machine import resolve_device

    chosen, kind = resolve_device(device, dtype)
    from nha_eval.bench.model import ModelRun, run
    from nha_eval.bench.model_grid import plan
    from nha_eval.bench.model_measure import RowBudget

    cases = plan(
        device_type=chosen.type,
        models=_split("model", model),
        sizes=_split("size", size),
        lengths=lengths,
        batches=batches,
        windows=windows,
        phases=_split("phase", phase),
        checkpointing=ways,
        quick=quick,
        settings=used,
    )
    return run(ModelRun(cases, chosen, kind, place, seed, RowBudget(seconds, repeats), fresh, used))


def harness(
    model: Annotated[str, typer.Option(help="smollm2-135m, or a checkpoint's folder that Transformers loads.")] = BASE,
    task: Annotated[
        list[str] | None, typer.Option(help=f"Tasks, each by both: recall_needle,... Default: {HARNESS_TASK}.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Documents of a task.")] = 100,
    window: Annotated[list[str] | None, typer.Option(help="Windows of the sweep. Default: 16,64,256,1024,full.")] = None,
    sweep_limit: Annotated[int, typer.Option(help="Documents of a task at each window of the sweep.")] = 10,
    repeats: Annotated[int, typer.Option(help="Times that each side is run, in turn.")] = 3,
    batch: Annotated[int, typer.Option(help="Sequences at a time, on both sides.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32. auto: bfloat16 on a GPU.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what the folder holds.")] = False,
    out: Annotated[str, typer.Option(metavar="PATH", help="Folder of the table and environment.json.")] = HARNESS_OUT,
) -> int:
    """What `eval` costs beside plain `lm_eval` on the same task, and what a sweep of windows saves over separate runs.

    Both sides take turns: whole processes, scoring alone, and the sweep. Scores must be the same, or nothing is compared.
    """
    from nha_eval.errors import UserError
    from nha_eval.paths import user_path
    from nha_eval.window_settings import parse_window

    place = user_path(out, "--out")
    counts = {"limit": limit, "sweep-limit": sweep_limit, "repeats": repeats, "batch": batch}
    for name, count in counts.items():
        if not 1 <= count <= MOST:
            raise UserError(f"--{name} {count}: wanted is an integer from 1 to {MOST}")
    tasks = _split("task", task) or [HARNESS_TASK]
    try:
        windows = tuple(dict.fromkeys(str(parse_window(text)) for text in _split("window", window) or ()))
    except ValueError as problem:
        raise UserError(f"--window: {problem}") from problem
    if len(windows) == 1:
        raise UserError(f"--window {windows[0]}: wanted are two windows at least, as in --window 64,full")
    folder = None if model == BASE else user_path(model, "--model").absolute()
    if folder is not None and not (folder / "config.json").is_file():
        raise UserError(f"--model {model!r}: wanted is {BASE}, or a checkpoint's folder with its config.json")
    from nha_eval.evaluate import known_suites
    from nha_eval.plan import chosen_tasks
    from nha_eval.spec import make_spec

    chosen_tasks(make_spec({"tasks": tasks}, {}, where="--task"), known_suites())
    _wait_idly()
    from models.assets import AssetCorrupt, AssetUnavailable, smollm2_folder
    from nha_eval.bench.harness import WINDOWS, HarnessRun, run
    from nha_eval.bench.machine import resolve_device

    chosen, kind = resolve_device(device, dtype)
    try:
        checkpoint = folder or smollm2_folder()
    except (AssetUnavailable, AssetCorrupt) as problem:
        raise UserError(f"--model {model} cannot be had: {problem}; give a checkpoint's folder with --model") from problem
    return run(
        HarnessRun(
            checkpoint,
            BASE if folder is None else folder.name,
            tasks,
            place,
            chosen,
            kind,
            limit=limit,
            windows=windows or WINDOWS,
            sweep_limit=sweep_limit,
            repeats=repeats,
            batch=batch,
            fresh=fresh,
        )
    )


def show(
    run: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder that one of the other verbs wrote.")] = OUT,
) -> int:
    """Print a folder's tables and draw their pictures, as of figures brought from another machine."""
    from nha_eval.bench import rows
    from nha_eval.errors import UserError
    from nha_eval.paths import user_path

    folder = user_path(run, "folder")
    kinds = [table for table in (rows.OP, rows.MODEL, rows.HARNESS) if (folder / table.file).is_file()]
    if not kinds:
        raise UserError(
            f"no table of `bench op`, `bench model` or `bench harness` in {folder}; give the folder that one of them wrote, "
            f"such as {OUT}"
        )
    for table in kinds:
        if table is rows.OP:
            from nha_eval.bench.op import show as show_folder
        elif table is rows.MODEL:
            from nha_eval.bench.model import show as show_folder
        else:
            from nha_eval.bench.harness import show as show_folder
        show_folder(folder)
    return 0


COMMANDS = {"op": op, "model": model, "harness": harness, "show": show}


def _split(name: str, values: list[str] | None) -> list[str] | None:
    """The parts between commas; None where the option was not given, UserError where it says nothing."""
    from nha_eval.errors import UserError

    if not values:
        return None
    parts = [part.strip() for value in values for part in value.split(",") if part.strip()]
    if not parts:
        raise UserError(f"--{name} {','.join(values)!r}: it names nothing; give a value, or leave the option out")
    return parts


def _is_count(text: str, least: int) -> bool:
    """Whether the text is an integer from `least` to MOST; Python itself refuses to read very long ones."""
    return text.isascii() and text.isdecimal() and len(text) <= 2 * len(str(MOST)) and least <= int(text) <= MOST


def _integers(name: str, values: list[str] | None, least: int) -> list[int] | None:
    from nha_eval.errors import UserError

    texts = _split(name, values)
    for text in texts or ():
        if not _is_count(text, least):
            raise UserError(f"--{name} {text!r}: wanted are integers from {least} to {MOST}, as in --{name} 2048,32768")
    return None if texts is None else sorted({int(text) for text in texts})


def _counted(
    name: str, values: list[str] | None, least: int, word: str = "", share: bool = False, names: tuple[str, ...] = ()
) -> list[str] | None:
    """Integers from `least`, ascending, then what `word`, a share such as T/8 or one of `names` says, as text; UserError for
    others."""
    from nha_eval.errors import UserError, nearest
    from nha_eval.window_settings import is_name

    texts = _split(name, values)
    if texts is None:
        return None
    numbers, others = [], []
    for text in texts:
        if _is_count(text, least):
            numbers.append(int(text))
        elif (word and text == word) or text in names or (share and text.startswith("T/") and _is_count(text[2:], 1)):
            others.append(text)
        elif names and is_name(text):
            raise UserError(f"--{name} {text!r}: no setting is called that; {nearest(text, names, what='settings')}")
        else:
            more = f" or {word}" if word else " or shares of the length such as T/8"
            raise UserError(
                f"--{name} {text!r}: wanted are integers from {least}{more} (at most {MOST}), as in "
                f"--{name} {max(least, 64)},{word or 'T/8'}"
            )
    return [*(str(number) for number in sorted(set(numbers))), *dict.fromkeys(others)]


def _check_seed(seed: int) -> None:
    """UserError for a seed that `eval` would not take either."""
    from nha_eval.errors import UserError

    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: wanted is an integer from 0 to {2**32 - 1}")


def _wait_idly() -> None:
    # Read when torch is imported. GNU OpenMP's threads wait for each other in a busy loop, which beside any other busy
    # process makes small operators a hundred times slower; this many turns cost nothing on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
