"""Generated options of every verb, most of them wrong, and places that are none; `inputs` draws from these and spec files."""

import rules
from hypothesis import strategies as st
from spec_inputs import HOSTILE, MODELS, SETTINGS, TASK, Input, files, scalars, specs, words, yaml_of


@st.composite
def places(draw):
    """A spec, a run, a folder of figures that is not there, is a folder, or has a name that no file can have."""
    verb = draw(st.sampled_from([["eval"], ["report"], ["plot", "window-accuracy", "--out=x.svg"], ["bench", "show"]]))
    given = draw(st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=20).map(lambda text: f"no {text}"))
    there = {"folder": None} if draw(st.booleans()) else {}
    given = "folder" if there else given
    return Input([*verb, "--", given], None, there) if given != "~root" else Input(["eval", "--", "nowhere"])


@st.composite
def eval_options(draw):
    """Options of `eval`, as `--name=text`."""
    content, arguments = {}, ["eval"]
    texts = {
        **{
            "model": MODELS,
            "suite": st.just("recall-local"),
            "task": st.just(TASK),
            "window": st.sampled_from(["16", "0,full", "searched", "half,16"]),
            "settings": st.just("settings.yaml"),
        },
        **{"length": st.just("512"), "limit": st.just("3"), "contexts": st.just("2"), "batch": st.just("1")},
        **{"device": st.just("cpu"), "dtype": st.just("float32"), "seed": st.just("7"), "threads": st.just("1")},
        **{"out": st.just("here"), "data": st.just("cache"), "cost-length": st.just("64"), "cost-batch": st.just("2")},
    }
    chosen = ["model", "suite", *draw(st.lists(st.sampled_from(sorted(texts)), max_size=4))]
    broken = draw(st.sampled_from([*chosen, None]))
    wrong = False
    for option in dict.fromkeys(chosen):
        text = draw(words | scalars.map(str)) if option == broken else draw(texts[option])
        arguments.append(f"--{option}={text}")
        if option in ("limit", "contexts", "batch", "seed", "threads", "cost-batch"):
            # The command line's own integers are Python's, and may end in .0.
            try:
                value = int(text.strip().removesuffix(".0"))
            except ValueError:
                value, wrong = None, True
        else:
            value = (
                [part.strip() for part in text.split(",") if part.strip()]
                if option in ("window", "length", "cost-length")
                else text
            )
            wrong |= value == []
        if option == "settings":
            # A file that is not there; or one of which something has to be named.
            value = {**SETTINGS}
            wrong |= text != "settings.yaml"
        if option.startswith("cost-"):
            content.setdefault("costs", {})["lengths" if option.endswith("length") else "batch"] = value
        else:
            content[option] = [value] if option in ("model", "suite", "task") else value
    if draw(st.integers(0, 9)) == 0:
        arguments.append(
            draw(st.sampled_from(["--no-costs", "--modle=x", "--limit", "-z", "--costs=5", "extra.yaml", "--window"]))
        )
        wrong |= arguments[-1] != "--no-costs" or "costs" in content
        content = {**content, "costs": False}
    if "settings" in content:
        named = content["window"] if isinstance(content.get("window"), list) else []
        wrong |= not set(SETTINGS) & set(named)
    there = {"settings.yaml": yaml_of(SETTINGS).encode()} if "settings" in content else {}
    return Input(arguments, None if wrong else rules.spec_is_right(content), there)


PATHS = ("out", "data")


def flags(verb, good, bad):
    """Options of a verb of which one at least is wrong, or all are right; `bad` maps an option to texts that it must refuse."""

    @st.composite
    def made(draw):
        options = draw(st.lists(st.sampled_from(sorted(good)), max_size=3, unique=True))
        broken = draw(st.sampled_from(sorted(bad))) if not options or draw(st.integers(0, 3)) else None
        given = {option: draw(st.sampled_from(good[option])) for option in options}
        if broken is not None:
            junk = st.nothing() if broken in PATHS else words.map(lambda text: f"\x01{text}")
            given[broken] = draw(st.sampled_from(bad[broken]) | junk)
        arguments = [*verb, *(f"--{option}={text}" for option, text in given.items())]
        return Input(arguments, None if broken is not None else "reached", named="" if broken in (None, "only") else broken)

    return made()


NO_NUMBER = ("", " ", "-1", "0", "1.5", "nan", "many", "9" * 5000, "²", "٣٢", "1e3", "0x10", "16;32", str(2**31))
NO_NAME = ("nhaa", "", ",", " , ", "x" * 10_000, "../nha", "__init__", "_softmax", "nha.py", "NHA", "<b>", "\ud800")
COMMON_BAD = {
    "device": ("gpu", "", "cuda:-1", "cuda:99", "meta", "cpu:7", "mps", "\0", "cuda:" + "9" * 40),
    "dtype": ("float64", "", "bf16", "torch.float32", "int8"),
    "seed": ("-1", "x", "", str(2**32), "1.5", "9" * 5000),
    "out": ("", "a\0b", "x" * 300, "~no-such-user/x", " ", "\ud800"),
}
SOME = [text for text in NO_NUMBER if text != "0"]
bench_op = flags(
    ["bench", "op"],
    {
        **{"shape": ["A", "tiny", "A,B"], "length": ["16", "256,512"], "window": ["0", "64"], "only": ["nha"], "seed": ["3"]},
        **{"phase": ["forward", "decode"], "dtype": ["float32"], "device": ["cpu"], "warmup": ["0"], "repeat": ["1.5"]},
        "out": ["figures"],
    },
    {
        **{"shape": ("C", *NO_NAME), "length": NO_NUMBER, "window": SOME, "only": NO_NAME, "phase": ("backward", *NO_NAME)},
        **{"warmup": ("nan", "-1", "inf", "x"), "repeat": ("nan", "-0.1", "inf", ""), **COMMON_BAD},
    },
)
bench_model = flags(
    ["bench", "model"],
    {
        **{"model": ["nha", "nha,gla"], "size": ["tiny"], "length": ["64", "16,longest"], "batch": ["1", "2,largest"]},
        **{"window": ["16", "8,T/8"], "phase": ["decode", "prefill,train,decode"], "seconds": ["0.5"], "repeats": ["1"]},
        **{"seed": ["3"], "out": ["figures"]},
    },
    {
        **{"model": NO_NAME, "size": ("huge", *NO_NAME), "length": ("longest ever", *NO_NUMBER), "batch": NO_NUMBER},
        "settings": ("nowhere.yaml", "", ".", "~no-such-user/x", "a\0b"),
        **{"window": ("T/0", "T/", "T/x", "T/" + "9" * 5000, *SOME), "phase": ("training", *NO_NAME), **COMMON_BAD},
        **{"checkpointing": ("maybe", "true", ","), "seconds": ("0", "nan", "inf", "-1"), "repeats": ("0", "-1", "x", "1.5")},
    },
)
bench_harness = flags(
    ["bench", "harness"],
    {
        **{"model": ["smollm2-135m"], "task": ["recall_needle", "commonsense_social_iqa,recall_facts"], "limit": ["1", "50"]},
        **{"window": ["16,full", "0,64"], "sweep-limit": ["3"], "repeats": ["1"], "batch": ["2"], "dtype": ["float32"]},
        **{"device": ["cpu"], "out": ["figures"]},
    },
    {
        **{"model": NO_NAME, "task": ("recall_needles", *NO_NAME), "window": ("full", "16", "16,wide", ",", "-1,16")},
        **dict.fromkeys(("limit", "sweep-limit", "repeats", "batch"), NO_NUMBER),
        **{name: COMMON_BAD[name] for name in ("device", "dtype", "out")},
    },
)
doctor = flags(
    ["doctor"],
    {"mixer": ["nha", "gla"], "device": ["cpu"], "data": ["cache"]},
    {"mixer": NO_NAME, "device": COMMON_BAD["device"], "data": ("", "a\0b", "x" * 300, "~no-such-user", "/proc/nowhere")},
)


def others(text):
    """The verbs that take little, given too much or other than that; and no verb at all."""
    plots = [["plot"], ["plot", "window-accuracy"], ["plot", "window-accuracy", "nowhere", f"--out=x{text}"]]
    plots.append(["plot", f"no {text}", "run", "--out=x.svg"])
    lists = [["list", f"x{text}"], ["list", "--json=1"], ["list", f"--x{text}"], ["report"], ["report", "nowhere", f"x{text}"]]
    evals = [["eval"], ["eval", f"--x{text}"], ["eval", "quickstart", f"x{text}"], ["eval", "--model"]]
    more = [[f"x{text}"], ["bench", f"x{text}"], ["bench", "show", "nowhere", "x"], ["doctor", f"x{text}"]]
    more += [["prefetch"], ["prefetch", f"no {text}"], ["prefetch", "ruler", f"--x{text}"]]
    tables = [["tables", f"no {text}"], ["tables", f"--format=x{text}"], ["tables", f"--out=x{text}"], ["tables", "--limit=3"]]
    tables += [["tables", "nha-main", "--run=nowhere", f"--column=x{text}"], ["tables", f"--model=x{text}"]]
    return [Input(arguments) for arguments in (*plots, *lists, *evals, *more, *tables)]


eval_inputs = (specs(), specs(), specs(), files(), files(), eval_options(), eval_options())
benches = (bench_op, bench_model, bench_harness)
inputs = st.one_of(*eval_inputs, places(), *benches, doctor, words.map(others).flatmap(st.sampled_from))
