"""Run folders made out of the published figures, as if this project had measured just them."""

from report_run import score, write_run

SHARE_ERROR, PERPLEXITY_ERROR = 0.01, 0.2  # standard errors that the figures are given


def rows_of(table, *, shift=0.0):
    """Score rows that give every published figure of the table that can be measured, moved up by `shift` 95% intervals. Models
    are called as they are published; tasks that only an average is published of all score that average."""
    rows = {}
    for model in table.models:
        # What is published by itself wins over what an average leaves open.
        for column in sorted(table.columns, key=lambda column: bool(table.spec.metrics[column.metric].mean_of)):
            published = table.published(model.name, column)
            for _, how, tokens in table.measures(column) if published else ():
                value, error = float(published.value) / 100, SHARE_ERROR
                if how.unit == "perplexity":
                    value, error = float(published.value), PERPLEXITY_ERROR
                value += shift * 2 * 1.96 * error
                about = {"suite": how.suite, "metric": how.metric, "length": tokens or "", "protocol": how.protocol, "n": 500}
                rows.setdefault(
                    (model.name, how.task, how.metric, tokens), score(model.name, "none", how.task, value, error, **about)
                )
    return list(rows.values())


def published_run(folder, table, *, shift=0.0):
    """A run folder of these rows."""
    return write_run(folder, rows_of(table, shift=shift), spec="models: []\n")


def columns_of(table):
    """The options that say which model of such a run is which."""
    return [f"--column={model.name}={model.name}" for model in table.models]
