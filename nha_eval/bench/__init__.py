"""Time and memory of the operator beside its peers, in one run: what `bench` measures with.

Each file has one job: `shapes` and `grid` say what is measured, `implementations/` (one file each) what is called,
`counts` what arithmetic and traffic that needs, `setting` makes the call that `check`, `memory` and `timing` share,
`measure` turns it into rows, `rows` keeps them, `op` runs the grid, `table` shows it.

    python run_eval.py bench op --quick
"""
