"""The built site as a reader meets it: in Chromium, over http and from the disk, with no way out of this machine."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from conftest import ROOT, SITE
from execute import toc_entries

pytestmark = pytest.mark.browser

PAGES = [f"{entry}.html" for entry in toc_entries(ROOT / "book")]
# A browser treats scripts in another way where a page comes from the disk. Pages without a player share theirs.
PLAYERS = [
    f"{path.relative_to(ROOT / 'book').with_suffix('.html').as_posix()}"
    for path in sorted((ROOT / "book").glob("[!_]*/*.ipynb"))
    if "bp-static" in path.read_text("utf-8")
]
VISITS = [*(("http", name) for name in PAGES), *(("file", name) for name in ("index.html", *PLAYERS))]
MAX_PAGE_BYTES = 4_000_000
PHONE = {"width": 400, "height": 800}

# Findings of axe-core that are the theme's and do no harm, each with the reason.
AXE_ALLOWED = {
    "empty-table-header": "pandas leaves the corner above the index of a table empty",
    "label-content-name-mismatch": "the theme names its search button 'Search' and shows the shortcut Ctrl+K in it",
}


# --- the site and its visitors -------------------------------------------------------------------------------


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / "index.html").is_file():
        pytest.fail(f"there is no built site in {SITE.relative_to(ROOT)}: run `make book` first", pytrace=False)
    return SITE


@pytest.fixture(scope="session")
def http_base(site: Path) -> Iterator[str]:
    """Address of the site on a server of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["http", "file"])
def way(request: pytest.FixtureRequest) -> str:
    """How the site is read: from a server, or from the disk."""
    return request.param


@pytest.fixture
def base(request: pytest.FixtureRequest, site: Path, way: str) -> str:
    """Address of the site, by one way to read it."""
    return request.getfixturevalue("http_base") if way == "http" else f"{site.as_uri()}/"


@dataclass
class Visit:
    """One page in one browser context, and all that it asked for or complained about."""

    page: object
    base: str
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.page.route("**/*", self._route)
        self.page.route_web_socket("**/*", lambda socket: self.outside.append(socket.url))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        self.page.on("response", self._response)
        self.page.on("requestfailed", lambda request: self.missing.append(request.url))

    def _route(self, route) -> None:
        url = route.request.url
        if url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(url)
            route.abort()

    def _console(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _response(self, response) -> None:
        if response.status >= 400:
            self.missing.append(response.url)

    def open(self, name: str) -> Visit:
        """Open a page, and wait until its equations and widgets stand."""
        self.page.on("requestfinished", self._weigh)
        self.page.goto(urljoin(self.base, name), wait_until="load")
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.bp-static')].every((host) => host.querySelector('.bp-widget'))",
            timeout=10_000,
        )
        self.page.evaluate("() => document.fonts.ready")
        return self

    def _weigh(self, request) -> None:
        self.sizes[request.url] = request.sizes()["responseBodySize"]

    def complaints(self) -> list[str]:
        """All that must be empty at the end of a visit."""
        return [
            *(f"outside request: {url}" for url in self.outside),
            *(f"console: {text}" for text in self.errors),
            *(f"missing: {url}" for url in self.missing if url not in self.outside),
        ]


@pytest.fixture
def visit(browser, base: str) -> Iterator[Visit]:
    """A visitor with a wide screen, by http and from the disk."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Visit(context.new_page(), base)
    context.close()


# --- every page, and those with a player from the disk as well -----------------------------------------------


def test_the_visitor_notices_what_is_wrong(visit: Visit):
    """The counters below can count: an outside image, style, script, socket, an error and a wide part are all seen."""
    visit.open("index.html")
    visit.page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend",
                '<img src="https://outside.example/a.png"><link rel="stylesheet" href="//outside.example/b.css">');
            import("https://outside.example/c.js").catch(() => {});
            try { new WebSocket("wss://outside.example/d"); } catch {}
            console.error("a complaint");
            setTimeout(() => { throw new Error("a mistake"); });
        }"""
    )
    visit.page.wait_for_timeout(500)
    assert {urlsplit(url).path for url in visit.outside} == {"/a.png", "/b.css", "/c.js", "/d"}
    assert "a complaint" in visit.errors
    assert any("a mistake" in error for error in visit.errors)
    visit.page.set_viewport_size(PHONE)
    wide = '<p class="wide" style="width: 900px">wide</p><p style="overflow-x: auto"><b>not</b></p>'
    visit.page.evaluate("(wide) => document.querySelector('main article').insertAdjacentHTML('beforeend', wide)", wide)
    width, parts = too_wide(visit.page)
    assert width > PHONE["width"] and [part.split(">")[0] for part in parts] == ['<p class="wide" style="width: 900px"']


@pytest.mark.parametrize(("way", "name"), VISITS)
def test_page(visit: Visit, site: Path, name: str):
    """No outside request, no error, equations set, every image described, and light enough for a phone's network.

    It is opened on a phone, where nothing is wider than the screen: what is wide scrolls by itself. Then the screen
    turns wide, and every widget steps by mouse and by keyboard, and says and draws something else at each step.
    """
    page = visit.page
    wide = page.viewport_size
    page.set_viewport_size(PHONE)
    visit.open(name)
    assert too_wide(page) == (PHONE["width"], [])
    page.set_viewport_size(wide)

    if 'class="math' in (site / name).read_text("utf-8"):
        assert page.locator("main mjx-container").count() > 0, "no equation was set"
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0, "an equation has an error"
    words = page.evaluate(
        """() => {
            const main = document.querySelector("main").cloneNode(true);
            main.querySelectorAll("pre, code, script, style, mjx-container, .bp-widget").forEach((e) => e.remove());
            return main.textContent;
        }"""
    )
    raw = [mark for mark in (r"\(", r"\[", "$$") if mark in words]
    assert not raw, f"raw TeX on the page: {raw}"

    undescribed = page.eval_on_selector_all("img", "all => all.filter((i) => !i.alt.trim()).map((i) => i.src)")
    assert not undescribed, f"images without alt text: {undescribed}"
    broken = page.eval_on_selector_all("img", "all => all.filter((i) => !i.naturalWidth).map((i) => i.src)")
    assert not broken, f"images that do not load: {broken}"

    if visit.base.startswith("http"):  # files from the disk have no transfer size
        weight, heavy = sum(visit.sizes.values()), sorted(visit.sizes.items(), key=lambda item: -item[1])[:4]
        assert 100_000 < weight < MAX_PAGE_BYTES, f"{weight:,} bytes; the largest parts: {heavy}"

    assert page.locator(".bp-widget").count() == (site / name).read_text("utf-8").count('class="bp-static"')
    for number, widget in enumerate(page.locator(".bp-widget").all()):
        step_through(page, widget, f"widget {number}")
    assert visit.complaints() == []


def too_wide(page) -> tuple[int, list[str]]:
    """The width of what is on the phone's screen, and the parts that neither fit nor scroll by themselves."""
    width = page.evaluate("document.documentElement.scrollWidth")
    return width, page.evaluate(
        """(width) => {
            const scrolls = (e) => /auto|scroll|hidden|clip/.test(getComputedStyle(e).overflowX);
            return [...document.querySelectorAll("main article *")].filter((e) => {
                if (e.getBoundingClientRect().right <= width + 1) return false;
                let box = e.parentElement;
                while (box.tagName !== "ARTICLE" && !scrolls(box)) box = box.parentElement;
                return box.tagName === "ARTICLE";
            }).map((e) => e.outerHTML.slice(0, 100)).slice(0, 5);
        }""",
        PHONE["width"],
    )


# Text and drawing of one widget, as a reader sees them.
STATE = """(widget) => ({
    text: widget.querySelector(".bp-text").textContent.trim(),
    drawing: [...widget.querySelectorAll(".bp-drawing")].map((d) => d.innerHTML).join()
        + [...widget.querySelectorAll(".bp-drawing canvas")].map((c) => c.toDataURL()).join(),
    step: Number(widget.querySelector(".bp-slider").value),
    last: Number(widget.querySelector(".bp-slider").max),
})"""


def step_through(page, widget, which: str) -> None:
    """Walk one widget there and back; assert that each way of stepping changes the text and the drawing."""
    slider, following, previous = (widget.locator(f".bp-{part}") for part in ("slider", "next", "prev"))

    def state() -> dict:
        return widget.evaluate(STATE)

    def changed(before: dict, by: int, how: str) -> dict:
        after = state()
        assert after["step"] == before["step"] + by, f"{which}: {how} went from {before['step']} to {after['step']}"
        assert after["text"] != before["text"], f"{which}: {how} left the text as it was"
        assert after["drawing"] != before["drawing"], f"{which}: {how} left the drawing as it was"
        return after

    widget.scroll_into_view_if_needed()
    assert state()["last"] >= 1, f"{which} has one step only"
    slider.focus()
    page.keyboard.press("Home")
    first = state()
    assert (first["step"], bool(first["text"]), bool(first["drawing"])) == (0, True, True), f"{which}: Home"

    following.click()
    second = changed(first, +1, "Next")
    previous.click()
    assert state() == first, f"{which}: Previous does not lead back"

    slider.focus()
    page.keyboard.press("ArrowRight")
    assert changed(first, +1, "ArrowRight") == second, f"{which}: ArrowRight and Next differ"
    page.keyboard.press("ArrowLeft")
    assert state() == first, f"{which}: ArrowLeft does not lead back"
    following.focus()
    page.keyboard.press("Enter")
    assert state() == second, f"{which}: Enter on Next and a click differ"

    slider.focus()
    page.keyboard.press("End")
    end = state()
    assert end["step"] == end["last"], f"{which}: End leads to {end['step']} of {end['last']}"
    assert end["text"] != first["text"] and end["drawing"] != first["drawing"], f"{which}: the last step is the first"
    if widget.locator(".bp-play").count():
        page.keyboard.press("Home")
        widget.locator(".bp-play").click()
        page.wait_for_function("(slider) => Number(slider.value) > 0", arg=slider.element_handle(), timeout=5_000)
        if state()["step"] < end["last"]:
            widget.locator(".bp-play").click()
            stopped = state()
            page.wait_for_timeout(100)
            assert state() == stopped, f"{which}: it plays on after a pause"


def test_there_is_a_widget(site: Path):
    """The tests above had something to do."""
    assert sorted(name for name in PAGES if 'class="bp-static"' in (site / name).read_text("utf-8")) == PLAYERS
    assert len(PLAYERS) >= 8


def test_search_finds_the_first_chapter(visit: Visit):
    """The search works with no server behind it."""
    title = "backpropagation"
    visit.open(f"search.html?q={title}")
    visit.page.locator("#search-results li a").first.wait_for(timeout=10_000)
    assert visit.page.locator("#search-results li a").count() >= 1
    assert visit.complaints() == []


def test_search_does_not_bury_the_chapters_under_recorded_trainings(visit: Visit):
    visit.open("search.html?q=validation")  # a word of every recorded training
    links = visit.page.locator("#search-results li a")
    links.first.wait_for(timeout=10_000)
    found = links.evaluate_all("all => all.map((a) => a.href)")
    assert not [link for link in found if re.search(r"-s\d+\.html", link)]


# --- terms of the glossary ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_terms_stand_in_running_text_once_and_each_is_explained(site: Path, name: str):
    page = BeautifulSoup((site / name).read_text("utf-8"), "html.parser")
    terms = page.select(".bp-term")
    asked = [term["aria-describedby"] for term in terms]
    assert asked == [box["id"] for box in page.select(".bp-definitions > .bp-definition[role=tooltip]")]
    assert len(asked) == len(set(asked))
    assert not asked or name != "reference/glossary.html"
    elsewhere = ":is(h1, h2, h3, h4, a, code, pre, dt, th, figure, summary, button, .math, .bp-static, nav) .bp-term"
    assert not page.select(elsewhere)
    if name.startswith(("problem/", "rules/", "experiments/")):
        assert len(terms) > 15


def test_a_term_says_what_it_means_on_hover_and_on_focus_until_escape(visit: Visit):
    page = visit.open("rules/segregated_compartments.html").page
    soma, dendrite = page.locator(".bp-term", has_text=re.compile("^soma$")), page.locator(".bp-term").nth(1)
    box = page.locator(f"#{soma.get_attribute('aria-describedby')}")
    other = page.locator(f"#{dendrite.get_attribute('aria-describedby')}")
    assert box.text_content().startswith("soma: The cell body")
    assert page.locator(".bp-definition:visible").count() == 0

    soma.hover()
    box.wait_for(timeout=2_000)
    at, around = soma.bounding_box(), box.bounding_box()
    below, above = around["y"] - at["y"] - at["height"], at["y"] - around["y"] - around["height"]
    assert 0 < max(below, above) < 10 and around["x"] >= 0
    box.hover()  # who reads it may point at it
    page.wait_for_timeout(400)
    assert box.is_visible()
    page.mouse.move(5, 5)
    box.wait_for(state="hidden", timeout=2_000)

    soma.hover()
    box.wait_for(timeout=2_000)
    page.keyboard.press("Escape")
    assert not box.is_visible()

    dendrite.focus()
    assert other.is_visible()
    page.keyboard.press("Tab")
    assert not other.is_visible()
    page.keyboard.press("Shift+Tab")
    assert other.is_visible() and page.locator(".bp-definition:visible").count() == 1
    page.keyboard.press("Escape")
    assert not other.is_visible()
    assert visit.complaints() == []


def test_a_tap_shows_what_a_term_means_inside_a_phone_s_screen(browser, http_base: str):
    context = browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True)
    page = Visit(context.new_page(), http_base).open("rules/microcircuits.html").page
    for term in page.locator("p > .bp-term").all()[:12]:
        term.tap()
        box = page.locator(f"#{term.get_attribute('aria-describedby')}")
        box.wait_for(timeout=2_000)
        around = box.bounding_box()
        assert around["x"] >= 0 and around["x"] + around["width"] <= PHONE["width"], term.text_content()
        page.locator("article h1").tap()
        box.wait_for(state="hidden", timeout=2_000)
    context.close()


def test_what_is_printed_has_no_underlines_and_no_boxes(visit: Visit):
    page = visit.open("rules/segregated_compartments.html").page
    page.emulate_media(media="print")
    page.locator(".bp-term").first.focus()
    assert page.locator(".bp-definition:visible").count() == 0
    assert page.locator(".bp-term").first.evaluate("(term) => getComputedStyle(term).textDecorationLine") == "none"


# --- every page, by http --------------------------------------------------------------------------------------


# axe takes most of its time for tens of thousands of nodes that are all alike: words of code, parts of signatures
# and of equations, strokes of drawings. Of words with the same classes, parents and colours one is looked at; what has
# a role, a link or an attribute of its own stays. A single letter is its own kind: axe does not judge its contrast.
# Strokes have nothing to say, and what is left empty goes. The inside of an equation is MathJax's: five stand for all.
LEAVE_ONE_OF_A_KIND = """() => {
    const seen = new Set();
    const kind = (node) => {
        const style = getComputedStyle(node);
        const long = node.textContent.trim().length > 1;
        let path = [long, style.color, style.backgroundColor, style.fontSize, style.opacity].join();
        for (let e = node; e && e.tagName !== "ARTICLE"; e = e.parentElement)
            path += ` ${e.tagName} ${[...e.classList].sort()} ${e.getAttribute("style")}`;
        return path;
    };
    const dull = (node) => [...node.attributes].every((a) => /^(class|style)$/.test(a.name));
    const plain = (node) => !node.children.length && !node.closest("a, button") && dull(node);
    const words = [...document.querySelectorAll("pre span, code span, .sig span, .sig em")].filter(plain);
    const again = words.filter((node) => {
        const known = kind(node), repeated = seen.has(known);
        seen.add(known);
        return repeated;
    });
    again.forEach((node) => node.remove());
    const drawn = /^(class|style|id|d|x|y|transform|clip-path|(xlink:)?href)$/;
    const stroke = (node) => !node.closest("[role=button], a") && [...node.attributes].every((a) => drawn.test(a.name));
    const hollow = (selector, of) => [...document.querySelectorAll(selector)].filter(
        (node) => !node.children.length && !node.textContent.trim() && of(node)
    );
    const empty = () => [
        ...hollow("svg :is(g, path, use)", stroke), ...hollow(":is(pre, code, .sig) span, .sig em", dull)
    ];
    for (let rest = empty(); rest.length; rest = empty()) rest.forEach((node) => node.remove());
    const equations = [...document.querySelectorAll("mjx-container")].slice(5);
    equations.forEach((equation) => equation.replaceChildren());
    return again.length + equations.length;
}"""


def findings(page) -> list[str]:
    """What axe-core has to say of a page as it is now, but for what is on the list."""
    return [
        f"{finding['id']} ({finding['impact']}): {finding['help']}: {node['html'][:150]}"
        for finding in Axe().run(page).response["violations"]
        for node in finding["nodes"][:3]
        if finding["id"] not in AXE_ALLOWED
    ]


def change_theme(page, theme: str) -> None:
    """What a reader's system does at dusk: the page follows it."""
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=theme, timeout=5_000)


@pytest.mark.parametrize("name", PAGES)
def test_accessibility(browser, http_base: str, name: str):
    """axe-core finds nothing but what is on the list, in both themes."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = Visit(context.new_page(), http_base).open(name).page
    page.evaluate("document.querySelectorAll('.toggle-hidden').forEach((solution) => solution.click())")
    page.evaluate(LEAVE_ONE_OF_A_KIND)
    found = []
    for theme in ("light", "dark"):
        change_theme(page, theme)
        found += [f"{theme}: {finding}" for finding in findings(page)]
    context.close()
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_one_of_a_kind_leaves_out_hides_no_other_kind(browser, http_base: str, theme: str):
    """Among thousands of words of code that are alike, the one that cannot be read is found, in its theme alone."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = Visit(context.new_page(), http_base).open("index.html").page
    page.evaluate(
        """(theme) => {
            const pale = { light: "#ffffff", dark: "#121212" }[theme];
            const rule = document.head.appendChild(document.createElement("style"));
            rule.textContent = `html[data-theme="${theme}"] .rare { color: ${pale} !important; }`;
            const words = '<span class="k">def</span> <span class="n">f</span>\\n'.repeat(2000);
            const pre = `<pre tabindex="0">${words}<span class="k rare">seldom</span>${words}</pre>`;
            document.querySelector("article").insertAdjacentHTML("beforeend", `<div class="highlight">${pre}</div>`);
        }""",
        theme,
    )
    assert page.evaluate(LEAVE_ONE_OF_A_KIND) > 7_900
    for shown in ("light", "dark"):
        change_theme(page, shown)
        rare = [finding for finding in findings(page) if "rare" in finding]
        assert bool(rare) == (shown == theme), rare
    context.close()


# --- links ---------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """The ids and the link targets of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect ``id``, ``href`` and ``src``."""
        given = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := given.get(name))}
        self.targets += [value for name in ("href", "src") if (value := given.get(name)) is not None]


def dead_links(site: Path) -> list[str]:
    """Every link inside the site that leads nowhere, as ``page -> target``."""
    paths = (path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts)
    pages = {path: Links(path.read_text("utf-8")) for path in paths}
    dead = []
    for path, links in pages.items():
        for target in links.targets:
            address, fragment = urldefrag(target)
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[there].ids if there in pages else set()
            if not there.is_file() or (fragment and there in pages and unquote(fragment) not in known):
                dead.append(f"{path.relative_to(site)} -> {target}")
    return dead


def test_internal_links(site: Path):
    """Every link inside the site has a file and an anchor at its end."""
    dead = dead_links(site)
    assert not dead, "\n" + "\n".join(dead)


def test_dead_links_are_noticed(tmp_path: Path):
    """The check above can fail."""
    (tmp_path / "a.html").write_text('<p id="here"><a href="#here">1</a><a href="b.html#there">2</a><img src="c.png">')
    (tmp_path / "b.html").write_text('<a href="a.html?q=1#here">3</a><a href="https://outside.example/#x">4</a>')
    assert dead_links(tmp_path) == ["a.html -> b.html#there", "a.html -> c.png"]
