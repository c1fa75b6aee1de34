"""Time and memory of the operator, of whole models and of the harness, beside their peers, in one run: what `bench` measures
with.

Each file has one job. `bench op`: `shapes` and `grid` say what is measured, `implementations/` (one file each) what is called,
`counts` what arithmetic and traffic that needs, `setting` makes the call that `check`, memory and `timing` share, `measure`
turns it into rows, `op` runs the grid, `table` shows it. `bench model`: `model_grid`, `families/`, `model_work`,
`model_measure`, `model` and `model_table` likewise; `fitting` finds the most that fits, `crossover` where lines cross.
`bench harness`: `harness_processes` and `harness_scoring` are timed, `harness` runs them in turn, `harness_table` shows. All:
`running`, `machine`, `ceilings`, `ahead` (compiling), `rows` (keeping), `showing`.

    python run_eval.py bench op --quick
    python run_eval.py bench model --quick
    python run_eval.py bench harness
"""
