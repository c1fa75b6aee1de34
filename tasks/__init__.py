"""What is asked of a model: lm-eval tasks in YAML, the generators behind them, and where their data comes from.

A task is one YAML under `recall/` or `commonsense/`; a suite is a tag in it (`recall`, `recall-local`), or a group of
lm-eval's own tasks (`commonsense`). docs/TASKS.md says what each is, under which protocol, and where its data comes from.
Nothing heavy is imported here. Plain lm-eval runs the tasks too, once this package is installed:

    lm_eval --model hf --model_args pretrained=FOLDER --include_path tasks --tasks recall-local
"""

from pathlib import Path

TASKS_PATH = Path(__file__).resolve().parent
"""The folder to give to lm-eval as `include_path`."""
