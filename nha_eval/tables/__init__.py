"""The paper's tables, and those that it is read beside: published figures, what was measured here, and whether they agree.

A table is a YAML in `specs/` over rows of a CSV in `published/`, where every figure stands with its source; `spec` reads both.
`measured` reads run folders, `cells` sets the two side by side, `shown` lays a table out, `formats` prints it; `running` runs
the evaluation that fills a table, `show` is the verb. To add a table, add its YAML, and its figures to a CSV. Printing imports
no torch.

    from nha_eval.tables.spec import read_table
    read_table("nha-main").rows
"""
