"""Names that would lead elsewhere, run, or garble, and a watch over what is written while they are used."""

import os
import sys
from pathlib import Path

NAMES = {
    "climbing": "../../x",
    "absolute": "/tmp/../etc/x",
    "script": "<script>alert(1)</script>",
    "attribute": '" onload="alert(1)" \'><img src=x onerror=alert(1)>',
    "entity": "&lt;b&gt;&#0;]]>",
    "long": "x" * 10_000,
    "nul": "a\0b",
    "newline": "two\r\nlines",
    "device": "CON",
    "dash": "-rf",
    "dots": "..",
    "emoji": "🙂👩‍👩‍👧",
    "direction": "\u202egnp.exe\u200f",
    "terminal": "\x1b[31mred\x1b]0;title\x07",
    "template": "{{7*7}}{% raw %}${HOME}$(id)`id`",
    "markup": "[bold]x[/y] **b** | [a](javascript:alert(1))",
    "formula": '=cmd|"/c calc"!A1',
}
WRITTEN: list[str] | None = None


def note_writes(event, arguments):
    """Every file or folder that this process makes, renames or opens for writing."""
    if WRITTEN is None:
        return
    if (
        event == "open"
        and isinstance(arguments[0], str | bytes)
        and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ):
        WRITTEN.append(os.fsdecode(arguments[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "shutil.rmtree"):
        WRITTEN.extend(os.fsdecode(part) for part in arguments[:2] if isinstance(part, str | bytes))


sys.addaudithook(note_writes)


class writes:
    """What was written inside the `with` block, as absolute paths, without what Python and matplotlib keep for themselves."""

    def __enter__(self):
        global WRITTEN
        WRITTEN = self.paths = []
        self.here = Path.cwd()
        return self

    def __exit__(self, *exception):
        global WRITTEN
        WRITTEN = None

    def outside(self, folder):
        found = {os.path.normpath(self.here / path) for path in self.paths}
        own = ("__pycache__", "matplotlib", "torchinductor", "/dev/")
        return {path for path in found if not Path(path).is_relative_to(folder) and not any(part in path for part in own)}
