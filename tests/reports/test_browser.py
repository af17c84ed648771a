"""The pages in a real browser, where Playwright and a Chromium are there: small screens, fingers, keys, the dark."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_training_report import write_run

from conftest import make_photograph
from esrgan_lit.degradations.bicubic import Bicubic
from esrgan_lit.evaluation.evaluate import evaluate
from esrgan_lit.evaluation.methods import bicubic
from esrgan_lit.evaluation.test_sets import open_sets
from esrgan_lit.images.writing import save_image
from esrgan_lit.metrics.registry import make_metric
from esrgan_lit.reports.curves import COLORS
from esrgan_lit.reports.evaluation import SetReport
from esrgan_lit.reports.evaluation_page import draw_plane, view, write_evaluation
from esrgan_lit.reports.training import write_report

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]  # one browser and one set of pages for all
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
WIDTHS = {1400: 900, 390: 844}
SCRIPT = "<!--<script>document.title='hacked'<"
NAMES = [
    SCRIPT,
    "<img src=x onerror=document.title='hacked'>",
    "{{data}} \"'&amp;",
    "javascript:document.title='hacked'",
]
PAGES = ("evaluation", "run", "sweep")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages with names that would run if they could, long ones, and jobs that failed."""
    folder = tmp_path_factory.mktemp("pages")
    for number, name in enumerate(NAMES):
        save_image(make_photograph(96, 120, number), folder / "HR" / f"{name}.png")
    (test_set,) = open_sets({SCRIPT: {"hr": folder / "HR"}}, Bicubic(4), folder)
    methods = [bicubic(4)._replace(name=name, source=name, fingerprint=name) for name in (*NAMES, "long " * 40)]
    metrics = [make_metric("psnr_y", 4), make_metric("rmse", 4)]
    report = SetReport(test_set, evaluate([test_set], methods, metrics, folder / "cache", 1), metrics)
    report.plane = metrics[0], {name: (12.0 + at, 3.0 + at) for at, name in enumerate(NAMES)}
    views = {SCRIPT: [view(report, case, 2, 16) for case in test_set.cases]}
    planes = {SCRIPT: draw_plane(report, folder / "plane.png")}
    write_evaluation([report], views, planes, {SCRIPT: SCRIPT}, {}, 30, folder / "index.html")
    sweep = folder / "sweep"
    for job, name in enumerate([*NAMES, *map(str, range(8))]):
        write_run(sweep / name, 0.001 + 1e-4 * job, steps=100 + 50 * (job % 3))
    (sweep / NAMES[0] / "failure.txt").write_text(
        "Traceback (most recent call last):\n" + "  x" * 200 + "\nValueError: no"
    )
    (sweep / "multirun.yaml").touch()
    write_report([sweep], sweep)
    write_report([sweep / "1"], sweep / "1")
    return {"evaluation": folder / "index.html", "sweep": sweep / "report.html", "run": sweep / "1" / "report.html"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any, pages: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Open a page by name; at the end it must have had no error and no name that ran."""
    opened, said = [], []

    def open_page(name: str, width: int, scheme: str = "light") -> Any:
        small = width < 500
        context = browser.new_context(
            viewport={"width": width, "height": WIDTHS[width]}, is_mobile=small, has_touch=small, color_scheme=scheme
        )
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url))
        page.goto(pages[name].as_uri())
        opened.append((context, page))
        return page

    yield open_page
    for context, page in opened:
        assert page.title() != "hacked"
        context.close()
    documents = {path.as_uri() for path in pages.values()}
    assert [one for one in said if not one.startswith("data:") and one not in documents] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_screen(show: Callable[..., Any], name: str, width: int) -> None:
    page = show(name, width)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    for head in page.locator("th button").all()[:12]:
        head.dispatch_event("click")
    if name == "evaluation":
        for select in ("select.image", "select.left", "select.right", "select.zoom"):
            page.select_option(select, index=1)
    # What lies in a part that scrolls by itself may be wider; the page may not.
    wider = page.evaluate("""() => [...document.querySelectorAll('body *')].filter(one => {
        if (one.getBoundingClientRect().right <= innerWidth + 1) return false;
        for (let up = one.parentElement; up; up = up.parentElement)
            if (getComputedStyle(up).overflowX !== 'visible') return false;
        return true;
    }).map(one => one.outerHTML.slice(0, 80))""")
    assert wider == []
    assert page.evaluate("[document.documentElement.scrollWidth, visualViewport.width]") == [width, width]


CONTRASTS = """() => {
    const context = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const channels = color => {
        context.clearRect(0, 0, 1, 1); context.fillStyle = color; context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const over = (color, below) => below.map((value, at) => value + (color[at] - value) * color[3] / 255);
    const brightness = color => {
        const [r, g, b] = color.map(v => v <= 10 ? v / 3294.6 : ((v / 255 + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    document.body.style.backgroundColor = 'Canvas';
    const canvas = channels(getComputedStyle(document.body).backgroundColor).slice(0, 3), found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const one = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !one.checkVisibility()) continue;
        if (one.closest('script, style, noscript, select')) continue;
        const layers = [], style = getComputedStyle(one);
        for (let up = one; up; up = up.parentElement) layers.unshift(channels(getComputedStyle(up).backgroundColor));
        const below = layers.reduce((below, layer) => over(layer, below), canvas);
        const ink = over(channels(one.closest('svg') ? style.fill : style.color), below);
        const [more, less] = [brightness(ink), brightness(below)].sort((a, b) => b - a);
        const contrast = (more + .05) / (less + .05);
        if (contrast < 4.5) found.push([texts.currentNode.data.slice(0, 40), one.className, contrast]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_text_can_be_read_by_day_and_by_night(show: Callable[..., Any], name: str, scheme: str) -> None:
    page = show(name, 1400, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    # The labels over the images and the boxes on them are drawn on photographs.
    assert [found for found in page.evaluate(CONTRASTS) if found[1] not in ("box",)] == []


def test_curves_stand_out_by_day_and_by_night() -> None:
    """WCAG 2.2, 1.4.11: three to one, on white and on the #121212 of dark pages."""

    def brightness(color: str) -> float:
        values = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(values <= 0.03928, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for color in COLORS:
        for page in ("#ffffff", "#121212"):
            less, more = sorted((brightness(color), brightness(page)))
            assert (more + 0.05) / (less + 0.05) >= 3, (color, page)


def test_keys_sort_a_table(show: Callable[..., Any]) -> None:
    page = show("sweep", 1400)
    head = page.locator("th button", has_text="best/psnr_y").first
    values = "[...document.querySelector('table').tBodies[0].rows].map(row => Number(row.cells[%d].dataset.value))"
    at = head.evaluate("one => one.parentElement.cellIndex")
    page.locator("th button").first.focus()
    for _ in range(at):
        page.keyboard.press("Tab")
    assert head.evaluate("one => one === document.activeElement")
    assert head.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    once = page.evaluate(values % at)
    page.keyboard.press("Space")
    assert once == sorted(once)
    assert page.evaluate(values % at) == once[::-1]
    assert head.evaluate("one => one.parentElement.getAttribute('aria-sort')") == "descending"


def place(page: Any) -> float:
    """Where the bar between two methods is, as a share of the picture."""
    return page.evaluate(
        """() => {
        const [bar, stage] = ['.bar', '.stage'].map(one => document.querySelector(one).getBoundingClientRect());
        return (bar.left + bar.width / 2 - stage.left) / stage.width;
    }"""
    )


def touch(page: Any, path: list[tuple[float, float]]) -> None:
    """Put a finger down at the first point, move it over the others, and lift it."""
    session = page.context.new_cdp_session(page)
    for number, (x, y) in enumerate(path):
        kind = "touchMove" if number else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    page.wait_for_timeout(150)  # lifted at rest, so that nothing goes on by its momentum
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(50)


def test_mouse_and_keys_move_the_bar_between_two_methods(show: Callable[..., Any]) -> None:
    page = show("evaluation", 1400)
    page.locator(".stage").scroll_into_view_if_needed()
    box = page.locator(".stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.9, middle)
    page.mouse.down()
    assert place(page) == pytest.approx(0.9, abs=0.01)
    page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] * 0.7, middle)
    assert place(page) == pytest.approx(0.25, abs=0.01)
    page.locator(".compare input[type=range]").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert place(page) == pytest.approx(0.26, abs=0.002)
    page.keyboard.press("End")
    assert place(page) == 1


def test_a_finger_moves_the_bar_and_still_scrolls_the_page(show: Callable[..., Any]) -> None:
    page = show("evaluation", 390)
    page.locator(".stage").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.frame').scrollIntoView({block: 'center'})")
    box = page.locator(".stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    touch(page, [(box["x"] + box["width"] * share, middle) for share in (0.5, 0.6, 0.7, 0.8)])
    assert place(page) == pytest.approx(0.8, abs=0.02)
    page.touchscreen.tap(box["x"] + box["width"] * 0.3, middle)
    page.wait_for_timeout(100)
    assert place(page) == pytest.approx(0.3, abs=0.02)
    before = page.evaluate("scrollY")
    touch(page, [(box["x"] + box["width"] * 0.6, middle - down) for down in range(0, 120, 10)])
    assert page.evaluate("scrollY") > before + 50
    assert place(page) == pytest.approx(0.3, abs=0.02)


def test_a_finger_pans_a_large_picture_and_its_labels_stay_in_view(show: Callable[..., Any]) -> None:
    page = show("evaluation", 390)
    page.select_option("select.zoom", "8")
    page.evaluate("document.querySelector('.frame').scrollIntoView({block: 'center'})")
    box = page.locator(".viewer").bounding_box()
    middle = box["y"] + box["height"] / 2
    touch(page, [(300 - right, middle) for right in range(0, 200, 10)])
    assert page.evaluate("document.querySelector('.viewer').scrollLeft") > 100
    assert place(page) == 0.5
    for tag in page.locator(".frame .tag").all():
        edges = tag.bounding_box()
        assert box["x"] - 1 <= edges["x"]
        assert edges["x"] + edges["width"] <= box["x"] + box["width"] + 1
    bar = page.locator(".bar").bounding_box()  # the picture stands still where its handle is dragged
    scrolled = page.evaluate("document.querySelector('.viewer').scrollLeft")
    start = bar["x"] + bar["width"] / 2
    touch(page, [(start - left, middle) for left in range(0, 100, 10)])
    assert page.evaluate("document.querySelector('.viewer').scrollLeft") == scrolled
    assert place(page) == pytest.approx(0.5 - 90 / 960, abs=0.02)


def test_keys_and_a_finger_go_through_the_validations(show: Callable[..., Any]) -> None:
    page = show("run", 390)
    slider = page.locator(".panels input[type=range]")
    shown = page.locator(".panels > div:not(.controls):visible p")
    last = shown.inner_text()
    slider.focus()
    page.keyboard.press("Home")
    assert shown.inner_text() == "iteration 50" != last
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert shown.inner_text() == last


def test_the_first_column_stays_while_a_table_scrolls(show: Callable[..., Any]) -> None:
    page = show("sweep", 390)
    table = page.locator(".scroll").first
    table.evaluate("one => { one.scrollLeft = 300; }")
    edge = table.bounding_box()["x"]
    assert table.evaluate("one => one.scrollLeft") == 300
    cells = page.locator(".scroll").first.locator("tr > :first-child").all()
    assert {round(cell.bounding_box()["x"] - edge) for cell in cells} == {0}


def test_panels_keep_their_size_on_a_large_screen(show: Callable[..., Any], pages: dict[str, Path]) -> None:
    page = show("run", 1400)
    path = next((pages["run"].parent / "panels").glob("*.png"))
    with Image.open(path) as panel:
        assert page.locator(".panels img:visible").first.bounding_box()["width"] == panel.width
