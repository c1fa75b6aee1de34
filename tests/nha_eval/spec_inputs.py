"""Generated spec files for `eval`, most of them wrong.

An `Input` is arguments, the files that lie in the working folder, and what must come of it: `right` is None for a refusal, else
what the run is to be, as `rules.py` says.
"""

import copy
from dataclasses import dataclass, field

import rules
from hypothesis import strategies as st

GOOD = {"models": ["nha-tiny"], "suites": ["recall-local"]}
MODELS = st.sampled_from(["nha-tiny", "gsa-tiny", "swa-tiny", "transformer++-tiny"])
TASK, CHOICE = "recall_facts", "commonsense_timedial"
HOSTILE = (
    *("../../x", "/etc/passwd", "<script>alert(1)</script>", "x" * 10_000, "a\0b", "two\nlines", "CON", "-rf", "--help", "🙂"),
    *(
        "\u202egnp.exe",
        "a\u200fb",
        "\x1b[31mred",
        "{{7*7}}",
        "$(id)",
        "'; drop",
        "~no-such-user",
        "~",
        " ",
        "",
        ".",
        "..",
        "\ud800",
    ),
    *("nha:", "nha:nha-tiny", ":", "a/b", "a/..", "hf://x", "nha-tiny ", "NHA-TINY", "%s%n", "C:\\x", "é" * 200, "x/" * 3000),
)
NEAR = ("nha-tinny", "nha_tiny", "recall-locale", "comonsense-local", "modle", "windw", "lenghts", "sutie", "auto ", "cpu:0")
NUMBERS = (-1, 0, 1, 7, 512, 16_384, 16_385, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 10**30, 10**400, -(10**30))
ODD = (
    None,
    True,
    False,
    0.5,
    -0.0,
    5.0,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
    [],
    {},
    [[]],
    [{}],
    {"": None},
    "5",
    " 7 ",
    "1_0",
)
words = st.sampled_from(HOSTILE + NEAR) | st.text(max_size=12)
scalars = st.sampled_from(NUMBERS + ODD) | st.integers() | st.floats() | words | st.booleans() | st.none()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
windows = st.sampled_from([0, 16, 64, "full", "16,64", ["full", 16], "searched", ["half", 16, "full"]])
SETTINGS = {"searched": [16, "full"], "half": {"window": 8, "full": [1]}}
fine = {
    "models": st.sampled_from([["nha-tiny"], "nha-tiny,gsa-tiny", [{"name": "swa-tiny", "windows": [8, "full"]}, "nha-tiny"]]),
    "suites": st.sampled_from([["recall-local"], "commonsense-local", ["recall-local", "commonsense-local"]]),
    "tasks": st.sampled_from([[TASK], [{"name": TASK, "lengths": [512], "limit": 3}], []]),
    "windows": windows,
    "settings": st.sampled_from([SETTINGS, [SETTINGS, {"other": [8]}], {"searched": [8]}, {"half": {"windows": {4: [1, 0]}}}]),
    "lengths": st.sampled_from([512, [512, 1024], []]),
    "limit": st.sampled_from([1, 5, "5", None]),
    "contexts": st.sampled_from([1, None]),
    "batch": st.sampled_from([1, 8]),
    "device": st.sampled_from(["cpu", "auto"]),
    "dtype": st.sampled_from(rules.DTYPES),
    "seed": st.sampled_from([0, 2**32 - 1]),
    "threads": st.sampled_from([1, None]),
    "costs": st.sampled_from(
        [True, False, {"lengths": [64], "seconds": 0.5}, {"extra": [{"model": "nha-tiny", "lengths": 32}]}]
    ),
    "out": st.sampled_from(["here", "a/b", "🙂", "CON"]),
    "data": st.sampled_from(["cache", None]),
}


@dataclass
class Input:
    """`right` is what must reach the run; None: it must be refused. `named` must stand in the refusal."""

    arguments: list[str]
    right: object = None
    files: dict[str, bytes | None] = field(default_factory=dict)  # None: a folder of that name
    named: str = ""


def quoted(text):
    return '"' + "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text) + '"'


def yaml_of(value):
    """YAML of plain data, with every character that could mean something escaped; written here so that no library's habits of
    writing hide what a reader does with the rest.
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml_of(key)}: {yaml_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(yaml_of, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        text = repr(value)
        # YAML 1.1 takes 1e300 for a word; with a point and a sign it is a number.
        text = text if "." in text or "e" not in text else text.replace("e", ".0e")
        return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(text, text)
    return str(value)


def at(content, place, value):
    """A copy of nested data with another value at a place (keys and indices), made where it is missing."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


NESTED = [
    ({"models": [{"name": "nha-tiny"}]}, ("models", 0), ("name", "windows", "window", "nmae", "lengths")),
    ({"tasks": [{"name": TASK}]}, ("tasks", 0), ("name", "lengths", "limit", "contexts", "length", "suite")),
    ({"costs": {}}, ("costs",), ("lengths", "batch", "repeats", "decode_tokens", "seconds", "extra", "lenghts")),
    ({"settings": {**SETTINGS}, "windows": ["half", "full"]}, ("settings", "half"), ("window", "full", "windows", "fulll")),
    ({"settings": {**SETTINGS}, "windows": ["half", 16]}, ("settings",), ("half", "searched", "full", "serched")),
    (
        {"costs": {"extra": [{"model": "nha-tiny", "lengths": [64]}]}},
        ("costs", "extra", 0),
        ("model", "windows", "lengths", "x"),
    ),
]


@st.composite
def specs(draw):
    """A spec file that differs from a right one in one place or a few."""
    content = dict(GOOD)
    for key in draw(st.lists(st.sampled_from(sorted(fine)), max_size=4, unique=True)):
        content[key] = draw(fine[key])
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.integers(0, 4))
        if kind == 0:
            content[draw(words | scalars.filter(lambda key: not isinstance(key, list | dict)))] = draw(anything)
        elif kind == 1:
            content.pop(draw(st.sampled_from(sorted(map(str, content)))), None)
        elif kind == 2:
            start, place, keys = draw(st.sampled_from(NESTED))
            content.update(at({**copy.deepcopy(start)}, (*place, draw(st.sampled_from(keys))), draw(anything)))
        else:
            content[draw(st.sampled_from(sorted(fine)))] = draw(anything)
    text = yaml_of(content)
    right = rules.spec_is_right(content) if len({repr(key) for key in content}) == len(content) else None
    return Input(["eval", "spec.yaml"], right, {"spec.yaml": text.encode()})


BOMB = "".join(f"k{i}: &k{i} [" + ", ".join([f"*k{i - 1}" if i else "x"] * 9) + "]\n" for i in range(12))
FRAGMENTS = (
    *(
        "models: [nha-tiny]\n",
        "suites: recall-local\n",
        "- a\n",
        "a: [",
        "{",
        "}",
        ": :",
        "&a [*a]\n",
        "*nowhere\n",
        "models: &m [*m]\n",
    ),
    *(
        "!!python/object/apply:os.system [exit]\n",
        "models: !!python/name:os.system\n",
        "x: !!binary '@@'\n",
        "!include /etc/passwd\n",
    ),
    *(
        "limit: !!int x\n",
        "limit: 2020-13-45\n",
        "seed: !!timestamp x\n",
        "a: !!bool maybe\n",
        "limit: 0x\n",
        "%YAML 9.9\n",
        "---\n",
    ),
    *(
        "[" * 2000,
        "{a: " * 500,
        "? " * 300,
        "- " * 500 + "\n",
        "<<: 5\n",
        "<<: [*a]\n",
        "\t\n",
        "a:\n\t- b\n",
        "\ufeff",
        "limit: " + "9" * 5000,
    ),
    *(
        BOMB,
        BOMB + "models: *k11\n",
        "models: a\nmodels: b\n",
        "...\nmodels: a\n",
        "a: |\n",
        "'",
        '"\\xZZ"',
        "#",
        "\u2028",
        "= 5\n",
        "x" * 300_000,
    ),
)
JUNK = (
    b"\x00",
    b"\xff\xfe\x00",
    bytes(range(256)),
    b"PK\x03\x04",
    b"\x7fELF",
    b"\x80abc",
    b"\xed\xa0\x80",
    "models: é".encode("utf-16"),
)


@st.composite
def files(draw):
    """Bytes for a spec: none of them can be one, as no model that there is stands beside a suite that there is."""
    parts = draw(
        st.lists(st.sampled_from([part.encode() for part in FRAGMENTS] + list(JUNK)) | st.binary(max_size=30), max_size=4)
    )
    content = b"".join(parts)
    if b"models: [nha-tiny]\n" in content:
        content = content.replace(b"suites: recall-local\n", b"suites: nowhere-local\n")
    return Input(["eval", "spec.yaml"], None, {"spec.yaml": content})
