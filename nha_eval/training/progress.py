"""What a training shows and notes while it goes: a line, a row of a table, TensorBoard's curves."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from rich.console import Console
from transformers import TrainerCallback

from nha_eval.progress import duration

COLUMNS = ["stage", "step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_s"]


class Log(TrainerCallback):
    """Writes train.csv, a row a log, and shows the same with the time left.

    tokens: of a step, over all devices. flops: of a token, forward and backward; with it the line tells the FLOP/s, and their
    share of `peak`, those of all devices at best. Rows beyond a step that a broken run goes on from are dropped.
    """

    def __init__(
        self,
        stage: str,
        path: Path,
        tokens: int,
        console: Console | None = None,
        *,
        flops: float | None = None,
        peak: float | None = None,
    ):
        self.stage, self.path, self.tokens, self.flops, self.peak = stage, path, tokens, flops, peak
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._since: tuple[int, float] | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self._since = state.global_step, time.monotonic()
        if not state.is_world_process_zero:
            return
        kept = [row for row in read_rows(self.path) if row["stage"] != self.stage or int(row["step"]) <= state.global_step]
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        step, began = self._since
        now = time.monotonic()
        rate = (state.global_step - step) * self.tokens / max(now - began, 1e-9)
        self._since = state.global_step, now
        figures = {key: f"{float(logs.get(key, float('nan'))):.6g}" for key in ("loss", "learning_rate", "grad_norm")}
        row = {"stage": self.stage, "step": state.global_step, "tokens": state.global_step * self.tokens, **figures}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow({**row, "tokens_per_s": f"{rate:.1f}"})
        left = (state.max_steps - state.global_step) * self.tokens / rate
        self.console.print(
            f"{self.stage} {state.global_step}/{state.max_steps}: loss {float(logs['loss']):.4f}, {rate:,.0f} tokens/s, "
            f"{self._arithmetic(rate)}{duration(left)} left"
        )

    def _arithmetic(self, rate: float) -> str:
        if self.flops is None:
            return ""
        share = "" if self.peak is None else f" ({rate * self.flops / self.peak:.0%} of peak)"
        return f"{rate * self.flops / 1e12:.3g} TFLOP/s{share}, "


def read_rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a train.csv; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row.get(column) for column in ("stage", "step"))]


def tensorboard(folder: Path) -> list[TrainerCallback]:
    """TensorBoard's callback, where it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return []
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(log_dir=str(folder)))]
