"""The report in a browser, opened from disk: everything drawn, nothing loaded, every part clicked, readable by all.

Chromium is the system's (`apt-get install chromium`), driven by playwright; where either is missing these tests skip.
"""

import os
import shutil
import time
from pathlib import Path

import pytest
from hostile import NAMES
from report_run import FULL, NHA, cost, score, write_run
from scored_run import add
from whole_run import samples, whole_run

from nha_eval.report import write_report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 400, 1280
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
    # A sandbox cannot be had as root, as in most containers.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """Opens a report: the page, after a check that it loaded nothing else; at the end, that it did not complain either."""
    contexts, said, asked = [], [], []

    def open_report(folder, width=DESKTOP, **about):
        context = browser.new_context(viewport={"width": width, "height": 900}, **about)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "report.html").as_uri())
        page.wait_for_selector("#theme:not([hidden])")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert not said
    assert len(asked) == len(contexts) and all(url.endswith("/report.html") for url in asked), asked


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = whole_run(tmp_path_factory.mktemp("runs") / "whole")
    write_report(folder)
    return folder


def table(page, title):
    return page.get_by_role("region", name=f"Table: {title}", exact=True)


def column(page, title, place):
    cells = table(page, title).locator(f"tbody tr:visible > :nth-child({place + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_every_plot_is_drawn_and_nothing_runs_out_of_the_page(width, whole, opened):
    page = opened(whole, width)
    kinds = {path.stem for path in (whole / "plots").glob("*.svg")}
    figures = page.locator("figure")
    assert figures.count() == len(kinds) and len(kinds) >= 9
    for place in range(figures.count()):
        plot = figures.nth(place).locator(".plot:visible")
        assert plot.count() == 1
        box = plot.locator("svg").bounding_box()
        assert box["height"] > 120 and box["x"] >= 0 and box["x"] + box["width"] <= width
        # Each panel has a frame and something that was measured.
        assert plot.locator("svg g[id*='axes_']").count() >= 1 and plot.locator("[data-tip]").count() >= 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.locator("p:visible").evaluate_all("all => all.map((one) => parseFloat(getComputedStyle(one).fontSize))")
    assert min(sizes) >= 12


def test_tables_sort_by_figures_and_back(whole, opened):
    page = opened(whole)
    first = column(page, "Suites", 1)
    head = table(page, "Suites").get_by_role("columnheader").nth(1)
    numbers = [float(text.split()[0]) for text in first]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text.split()[0]) for text in column(page, "Suites", 1)] == sorted(numbers, reverse=True)
    head.get_by_role("button").press("Enter")
    assert [float(text.split()[0]) for text in column(page, "Suites", 1)] == sorted(numbers)
    head.get_by_role("button").click()
    assert column(page, "Suites", 1) == first and head.get_attribute("aria-sort") == "none"
    # Units count: 4,000 bytes are less than 62.5 KiB.
    state = table(page, "Prefill").get_by_role("columnheader").filter(has_text="state")
    state.get_by_role("button").click()
    factors = {"bytes": 1, "KiB": 2**10, "MiB": 2**20}
    shown = [text.split() for text in column(page, "Prefill", 7) if text != "–"]
    sizes = [float(figure.replace(",", "")) * factors[unit] for figure, unit in shown]
    assert sizes == sorted(sizes, reverse=True) and len({unit for _, unit in shown}) > 1
    assert column(page, "Prefill", 7)[-1] == "–"


def test_a_filter_leaves_the_rows_that_hold_all_words(whole, opened):
    page = opened(whole)
    rows = len(column(page, "Crossovers", 0))
    field = page.get_by_label("Filter Crossovers")
    field.fill("NHA-base latency 256")
    left = column(page, "Crossovers", 0)
    assert set(left) == {"nha-base, window 256"} and len(left) == 2
    assert page.get_by_text(f"2 of {rows} rows").first.is_visible()
    field.fill("nothing has this")
    assert not column(page, "Crossovers", 0)
    field.fill("")
    assert len(column(page, "Crossovers", 0)) == rows


def test_the_theme_turns_and_stays(whole, opened):
    page = opened(whole, color_scheme="dark")

    def look():
        return page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('svg text')).fill]"
        )

    dark = look()
    page.get_by_role("button", name="Light theme").click()
    light = look()
    assert all(one != other for one, other in zip(dark, light, strict=True))
    page.get_by_role("button", name="Dark theme").click()
    assert look() == dark
    page.get_by_role("button", name="Light theme").click()
    page.emulate_media(color_scheme="light")
    assert look() == light


def test_a_table_is_copied_as_shown(whole, opened):
    page = opened(whole, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Filter Crossovers").fill("window 256 state")
    page.get_by_role("button", name="Copy as CSV: Crossovers").click()
    page.get_by_role("button", name="Copy as CSV: Crossovers").filter(has_text="Copied").wait_for()
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0] == 'setting,reference,cost,less or more,"crosses at, tokens","measured, tokens"'
    assert lines[1] == '"nha-base, window 256","base, full attention",state,less at all lengths,–,"512 to 4,096"'
    assert len(lines) == 3


def test_plots_tell_their_values_to_pointer_and_keys(whole, opened):
    page = opened(whole)
    plot = page.locator(".plot.wide").first
    point = plot.locator("use[data-tip]").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
    tip = page.locator(".tip")
    assert tip.is_visible() and tip.inner_text() == point.get_attribute("data-tip")
    page.mouse.move(2, 2)
    assert tip.is_hidden()
    plot.focus()
    page.keyboard.press("ArrowRight")
    first = tip.inner_text()
    assert page.locator("#live").inner_text().split() == first.split()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text() == first
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_everything_that_can_be_used_is_reached_by_tab(whole, opened):
    page = opened(whole)
    kinds = ("a[href]", "button", "input", "summary", ".table", ".plot")
    wanted = page.locator(", ".join(f"{kind}:visible" for kind in kinds)).count()
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    assert len(reached - {-1}) >= wanted


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_axe_finds_nothing_serious(width, scheme, whole, opened):
    axe = pytest.importorskip("axe_playwright_python", reason="no axe-core here: pip install axe-playwright-python")
    page = opened(whole, width, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document)")
    assert len(found["passes"]) > 20
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found["violations"] if one["impact"] in SERIOUS]
    assert not serious


def test_it_prints(whole, opened):
    page = opened(whole, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden() and page.locator(".tools").first.is_hidden()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_everything_is_there_to_read(whole, browser):
    context = browser.new_context(java_script_enabled=False, viewport={"width": DESKTOP, "height": 900})
    page = context.new_page()
    page.goto((whole / "report.html").as_uri())
    assert page.locator(".plot.wide svg").first.is_visible() and page.locator("table").first.is_visible()
    assert page.locator("#theme").is_hidden()
    context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "hostile"
    rows, costs = [], []
    for place, name in enumerate(NAMES.values()):
        for window, right in (("16", 0.3), ("full", 0.6)):
            rows.append(score(name, window, name, right, 0.1, suite=name))
            costs.append(cost(name, window, name if place % 2 else "prefill", 512, 10 * right, 100))
        rows.append(score(name, "64", name, "", suite=name, status="error", reason=name))
    for (model, window), right in {(FULL, "full"): 0.9, (NHA, "64"): 0.2}.items():
        own = samples("needle", right)
        for one, name in zip(own, list(NAMES.values()) * 3, strict=False):
            one |= {"asked": name, "gold": [name], "prediction": name, "context_id": name}
        add(folder, model, window, own, suite="recall")
        rows.append(score(model, window, "needle", right, 0.1, suite="recall", length=512))
    environment = {"command": list(NAMES.values()), **{name: {"deep": [name]} for name in NAMES.values()}}
    write_run(folder, rows, costs, environment, "\n".join(NAMES.values()).replace("\0", ""))
    write_report(folder)
    return folder


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_hostile_names_and_texts_do_nothing(width, hostile, opened):
    page = opened(hostile, width)
    assert page.locator("script").count() == 1 and page.locator("img, iframe, object, embed, link, b").count() == 0
    attributes = page.evaluate("[...document.querySelectorAll('*')].flatMap((one) => one.getAttributeNames())")
    assert not {name for name in attributes if name.startswith("on")}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.get_by_text("<script>alert(1)</script>").first.is_visible()
    for button in page.locator("thead button:visible").all()[:20]:
        button.click()
    page.locator("input").first.fill("<script>")


def test_a_formula_is_copied_as_text(opened, tmp_path):
    rows = [score(NAMES["formula"], window, "one", value, 0.1) for window, value in (("16", 0.3), ("full", 0.6))]
    folder = write_run(tmp_path / "run", rows)
    write_report(folder)
    page = opened(folder, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy as CSV: Suites").click()
    page.get_by_role("button", name="Copy as CSV: Suites").filter(has_text="Copied").wait_for()
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[1].startswith("\"'=cmd|")


@pytest.mark.parametrize("kind", ["empty", "errors", "unfinished", "5000 cells", "joined"])
def test_other_runs_open_as_well(kind, opened, tmp_path):
    folder = tmp_path / "run"
    others = []
    if kind == "errors":
        write_run(folder, [score("m", "16", "one", "", status="error", reason="died")], [], {}, "models: [m]\n")
    elif kind == "5000 cells":
        many = [
            score(f"swa-m{model}", str(2**step), f"task{task}", 0.5, 0.05, length=length)
            for model in range(5)
            for step in range(4, 9)
            for task in range(40)
            for length in (512, 1024, 2048, 4096, 8192)
        ]
        write_run(folder, many)
    elif kind == "joined":
        others = [whole_run(tmp_path / "a"), whole_run(tmp_path / "b", device="cuda", gpu="NVIDIA H200")]
    else:
        write_run(folder, None if kind == "empty" else [score("m", "16", "one", 0.5, 0.1)], [], {"cells_planned": 9}, "")
    began = time.process_time()
    write_report(*(others or [folder]), out=folder)
    assert time.process_time() - began < 20
    assert (folder / "report.html").stat().st_size < 3_000_000
    page = opened(folder)
    assert page.locator("h1").inner_text() and page.locator(".headline p").count()
