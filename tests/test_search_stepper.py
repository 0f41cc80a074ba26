"""The search on a line: its arithmetic on the page against Python's, and what a reader does with it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import traitlets
from test_browser import step_through
from test_widgets import CONTRAST, MODEL, browser, show, state_of  # noqa: F401  fixtures

import bioplaus_lite.widgets
from bioplaus_lite.gaussian_process import expected_improvement, log_likelihood, posterior
from bioplaus_lite.widgets import SearchStepper

X = np.linspace(-3.5, 1.5, 41)
Y = 10 + 85 * np.exp(-((X + 0.7) ** 2)) - 20 * (X > 0.2) / (1 + np.exp(-9 * (X - 0.3)))
RNG = np.random.default_rng(4)


def stepper(**changes) -> SearchStepper:
    return SearchStepper(**{"x": X, "y": Y} | changes)


# --- in Python -----------------------------------------------------------------------------------------------


def test_it_begins_as_it_was_told():
    widget = stepper(length=0.4, noise=2, start=2)
    assert (widget.length, widget.noise) == (0.4, 2.0)
    assert [X[i] for i, _ in widget.tried] == [-1.0, 0.25] and {who for _, who in widget.tried} == {"Sobol"}
    assert (widget.spec["mean"], widget.spec["amplitude"]) == (50, 25)  # two standard deviations fill the axis
    assert sorted(widget.spec["sobol"]) == list(range(41))
    assert repr(widget) == "SearchStepper(41 places, 2 of 15 tried)"
    assert stepper()._repr_html_() == stepper()._repr_html_()


def test_all_places_come_in_an_order_that_spreads():
    order = stepper().spec["sobol"]
    for n in (4, 8, 16):  # no wide gap is left
        seen = np.sort(X[order[:n]])
        assert np.diff([X[0], *seen, X[-1]]).max() <= 2.6 * (X[-1] - X[0]) / (n + 1)


def test_without_scripts_the_words_remain():
    page = stepper()._page_fallback()
    assert "41 places from -3.5 to 1.5" in page and page.count("<li>") == 3
    assert f"The highest is {Y.max():.4g}, at {X[Y.argmax()]:.3g}" in page


REFUSED = {
    "not increasing": ({"x": X[::-1]}, "x must be at least 2 finite numbers that increase"),
    "one place": ({"x": [1.0], "y": [1.0]}, "x must be at least 2"),
    "too few values": ({"y": Y[1:]}, "y must be 41 finite numbers"),
    "not a number": ({"y": np.where(X > 0, np.nan, Y)}, "y must be 41 finite numbers"),
    "length": ({"length": 0.0}, r"length must be in \[0.1, 5\], not 0.0"),
    "noise": ({"noise": 50}, r"noise must be in \[0.1, 20\], not 50"),
    "limits": ({"ylim": (1, 0)}, r"ylim\[1\] must be above 1 and finite, not 0"),
    "budget": ({"budget": 42}, "budget must be a whole number from 1 to 41, not 42"),
    "start": ({"start": 16}, "start must be a whole number from 0 to 15, not 16"),
    "title": ({"title": " "}, "title is ' '"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_input_is_refused_by_name(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        stepper(**changes)


@pytest.mark.parametrize(("name", "wrong", "message"), [
    ("length", 9.0, "length is 9.0; it must be from 0.1 to 5.0"),
    ("noise", 0.0, "noise is 0.0; it must be from 0.1"),
    ("tried", [[41, "you"]], "index from 0 to 40"),
    ("tried", [[1, "he"]], "one of"),
    ("tried", [[1, "you"], [1, "rule"]], "each place once"),
    ("tried", [[i, "you"] for i in range(16)], "at most 15 evaluations"),
])  # fmt: skip
def test_traits_are_checked_when_they_are_set(name: str, wrong, message: str):
    widget = stepper()
    before = getattr(widget, name)
    with pytest.raises(traitlets.TraitError, match=re.escape(message)):
        setattr(widget, name, wrong)
    assert getattr(widget, name) == before
    widget.tried = [(3, "you")]
    assert widget.tried == [[3, "you"]]


# --- the same arithmetic on the page -------------------------------------------------------------------------

JS = Path(bioplaus_lite.widgets.__file__).parent / "js/gaussian_process.js"
POINTS = {
    "one": np.array([20]), "far apart": np.array([0, 20, 40]), "neighbours": np.arange(12, 20),
    "fifteen": np.sort(RNG.permutation(41)[:15]),
}  # fmt: skip
SCALES = [(0.1, 0.1), (0.5, 1.0), (5.0, 0.1), (5.0, 20.0), (1.3, 0.8)]  # length, noise; the sliders' ends among them
COMPUTE = """async ([source, x, y, at, scales, pairs, best]) => {
  const gp = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const process = gp.fitProcess(x, y, scales);
  const found = at.map((place) => gp.posterior(process, place));
  return {
    mean: found.map((one) => one.mean), variance: found.map((one) => one.variance), odds: gp.logLikelihood(process),
    gain: pairs.map(([mean, variance]) => gp.expectedImprovement({ mean, variance }, best)),
  };
}"""


def off(got, wanted, scale: float = 0.0) -> float:
    """The largest error, relative to the value or to the scale."""
    wanted = np.asarray(wanted)
    return float(np.max(np.abs(np.asarray(got) - wanted) / np.maximum(np.abs(wanted), max(scale, 1e-300))))


def computed(browser, x, y, at, length, noise, pairs=(), best=0.0, source=None) -> dict:  # noqa: F811
    page = browser.new_page()
    scales = {"length": length, "noise": noise, "amplitude": 25.0}
    source = source or JS.read_text("utf-8")
    got = page.evaluate(COMPUTE, [source, list(map(float, x)), list(map(float, y)), at.tolist(), scales, pairs, best])
    page.close()
    return got


def differences(browser, points, length, noise, source=None) -> dict[str, float]:  # noqa: F811
    """How far the page's numbers are from Python's."""
    x, y, at = X[points], Y[points] - 50, np.linspace(-4, 2, 121)
    given = {"length": length, "noise": noise, "amplitude": 25.0}
    mean, variance = posterior(x, y, at, **given)
    got = computed(browser, x, y, at, length, noise, np.c_[mean, variance].tolist(), y.max(), source)
    return {
        "mean": off(got["mean"], mean, np.abs(mean).max()),
        "variance": off(got["variance"], variance, 25.0**2),
        "odds": off([got["odds"]], [log_likelihood(x, y, **given)]),
        "gain": off(got["gain"], expected_improvement(mean, variance, y.max())),
    }


@pytest.mark.browser
@pytest.mark.parametrize("points", POINTS.values(), ids=POINTS)
@pytest.mark.parametrize(("length", "noise"), SCALES)
def test_the_page_computes_what_python_computes(browser, points, length: float, noise: float):  # noqa: F811
    for name, error in differences(browser, points, length, noise).items():
        assert error < 1e-9, name


@pytest.mark.browser
def test_expected_improvement_agrees_in_both_tails(browser):  # noqa: F811
    z = np.concatenate([np.linspace(-37, 37, 149), [-4.0001, -3.9999, 0, 3.9999, 4.0001]])
    pairs = np.c_[3 * z, np.full_like(z, 9.0)]
    got = computed(browser, [0.0], [0.0], np.array([0.0]), 1.0, 1.0, pairs.tolist(), 0.0)["gain"]
    assert off(got, expected_improvement(*pairs.T, 0.0)) < 1e-9
    assert computed(browser, [0.0], [0.0], np.array([0.0]), 1.0, 1.0, [[1, 0], [-1, 0]])["gain"] == [1, 0]


@pytest.mark.browser
@pytest.mark.parametrize(("old", "new", "what"), [
    ("(r * r) / 3", "(r * r) / 3.0000001", "mean"),
    ("scales.noise ** 2", "scales.noise", "variance"),
    ("(white.length * Math.log(2 * Math.PI)) / 2", "0", "odds"),
    ("k < 120", "k < 12", "gain"),
])  # fmt: skip
def test_a_slip_on_the_page_is_noticed(browser, old: str, new: str, what: str):  # noqa: F811
    source = JS.read_text("utf-8")
    assert source.count(old) == 1
    found = differences(browser, POINTS["fifteen"], 0.5, 2.0, source.replace(old, new))
    assert found[what] > 1e-9


# --- what a reader does --------------------------------------------------------------------------------------


def words(page) -> str:
    return page.locator("output.bp-text").text_content()


def place(text: str, before: str) -> float:
    """The number that follows these words."""
    return float(re.search(rf"{before} (−?[\d.]+\d)", text)[1].replace("−", "-"))


def proposal(tried: list[int], length: float = 0.5, noise: float = 1.0) -> int:
    """The place that is not tried and has the largest expected improvement, as Python finds it."""
    mean, variance = posterior(X[tried], Y[tried] - 50, X, length=length, noise=noise, amplitude=25.0)
    gains = expected_improvement(mean, variance, Y[tried].max() - 50)
    return max(set(range(41)) - set(tried), key=lambda i: gains[i])


def agrees(page, tried: list[int], length: float = 0.5, noise: float = 1.0) -> None:
    """The text says what Python computes after these evaluations."""
    text = words(page)
    assert f"{len(tried)} tried, the last at" in text
    assert place(text, "the last at") == pytest.approx(X[tried[-1]], abs=0.006)
    assert place(text, "Best so far:") == pytest.approx(Y[tried].max(), abs=0.051)
    odds = log_likelihood(X[tried], Y[tried] - 50, length=length, noise=noise, amplitude=25.0)
    assert place(text, "length scale and noise:") == pytest.approx(odds, abs=0.051)
    if len(tried) < 15:
        assert place(text, "rule would try") == pytest.approx(X[proposal(tried, length, noise)], abs=0.006)
    n = len(tried)
    assert f"n = {n} points: n³/3 ≈ {round(n**3 / 3)} " in page.locator(".bp-cost").text_content()
    assert page.locator(".bp-panel-search svg .bp-marker").count() == n


@pytest.mark.browser
def test_a_reader_searches_by_keyboard(show):  # noqa: F811
    page = show(stepper())
    tried = [i for i, _ in stepper().tried]
    agrees(page, tried)
    for _ in range(2):  # what the rule proposes
        page.locator(".bp-next").press("Enter")
        tried.append(proposal(tried))
        agrees(page, tried)

    pick = page.locator(".bp-pick")
    pick.focus()
    pick.press("Home")
    assert pick.get_attribute("aria-valuenow") == "0"
    for key in ("ArrowRight", "PageUp", "ArrowLeft"):
        pick.press(key)
    left = [i for i in range(41) if i not in tried]
    assert pick.get_attribute("aria-valuenow") == str(left[10])
    mean, variance = posterior(X[tried], Y[tried] - 50, X[left], length=0.5, noise=1.0, amplitude=25.0)
    said = pick.get_attribute("aria-valuetext")
    assert place(said, "expects") == pytest.approx(50 + mean[10], abs=0.051)
    assert place(said, "take") == pytest.approx(2 * variance[10] ** 0.5, abs=0.051)
    pick.press("Enter")
    tried.append(left[10])
    agrees(page, tried)
    assert page.locator("svg .bp-marker.bp-s2").count() == 2  # the reader's own: in the plot and in the key

    page.locator(".bp-sobol").press("Enter")
    tried.append(next(i for i in stepper().spec["sobol"] if i not in tried))
    agrees(page, tried)
    for _ in range(2):
        page.locator(".bp-prev").press("Enter")
        tried.pop()
        agrees(page, tried)

    page.locator(".bp-again").press("Enter")
    agrees(page, [i for i, _ in stepper().tried])


@pytest.mark.browser
def test_a_click_tries_the_nearest_place(show):  # noqa: F811
    page = show(stepper())
    tried = [i for i, _ in stepper().tried]
    box = page.locator(".bp-pick").bounding_box()
    for at in (-2.9, 0.7, 0.71):
        share = (at + 3.5 + 0.15) / 5.3
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + 40)
        hint = page.locator(".bp-panel-search text").last.text_content()
        page.mouse.down()
        page.mouse.up()
        tried.append(min((i for i in range(41) if i not in tried), key=lambda i: abs(X[i] - at)))
        assert place(f"at {hint}", "at") == pytest.approx(X[tried[-1]], abs=0.006)
        agrees(page, tried)


@pytest.mark.browser
def test_sliders_change_belief_and_proposal_and_both_can_be_fitted(show):  # noqa: F811
    page = show(stepper())
    spec, tried = stepper().spec, [i for i, _ in stepper().tried]
    for _ in range(3):
        page.locator(".bp-next").click()
        tried.append(proposal(tried))
    band = page.locator(".bp-panel-search .bp-around").get_attribute("d")
    for name, values, start in (("length", spec["lengths"], 0.5), ("noise", spec["noises"], 1.0)):
        slider = page.locator(f".bp-{name}")
        k = int(slider.input_value())
        assert values[k] == pytest.approx(start, rel=0.1)
        slider.press("End")
        assert slider.get_attribute("aria-valuetext") in (f"{values[-1]:.2f}", f"{values[-1]:.1f}")
    agrees(page, tried, spec["lengths"][-1], spec["noises"][-1])
    assert page.locator(".bp-panel-search .bp-around").get_attribute("d") != band

    page.locator(".bp-fit").click()
    both = max(((l, s) for l in spec["lengths"] for s in spec["noises"]), key=lambda pair: log_likelihood(
        X[tried], Y[tried] - 50, length=pair[0], noise=pair[1], amplitude=25.0))  # fmt: skip
    agrees(page, tried, *both)
    assert [int(page.locator(f".bp-{name}").input_value()) for name in ("length", "noise")] == [
        spec["lengths"].index(both[0]), spec["noises"].index(both[1])]  # fmt: skip
    page.locator(".bp-again").click()
    agrees(page, [i for i, _ in stepper().tried])  # with the length scale and the noise of the beginning


@pytest.mark.browser
def test_the_hidden_values_are_shown_on_request_only(show):  # noqa: F811
    page = show(stepper())
    hidden = page.locator(".bp-panel-search > svg .bp-hidden")
    assert hidden.get_attribute("d") is None and not page.get_by_text("what was measured").is_visible()
    page.get_by_label("show what the search cannot see").check()
    assert hidden.get_attribute("d").count("L") == 40 and page.get_by_text("what was measured").is_visible()


@pytest.mark.browser
def test_before_the_first_point_and_after_the_last(show):  # noqa: F811
    page = show(stepper(budget=6, start=1))
    page.locator(".bp-slider").press("Home")
    assert "expects 50.0, give or take 50.0, everywhere" in words(page) and "Nothing to fit" in words_of_cost(page)
    assert page.locator(".bp-fit").get_attribute("aria-disabled") == "true"
    page.locator(".bp-slider").press("End")
    tried = stepper().spec["sobol"][:1]
    while len(tried) < 6:
        tried.append(proposal(tried))
    agrees_in_the_end = f"The highest of all 41 is {Y.max():.1f}" if Y[tried].max() < Y.max() else "No place of all 41"
    assert "The budget is spent. " + agrees_in_the_end in words(page)
    before = words(page)
    page.locator(".bp-sobol").click(force=True)
    page.locator(".bp-pick").press("Enter")
    page.locator(".bp-pick").click(force=True)
    assert words(page) == before and page.locator(".bp-pick").get_attribute("aria-disabled") == "true"
    page.locator(".bp-prev").click()
    assert "5 tried" in words(page) and page.locator(".bp-sobol").get_attribute("aria-disabled") is None


def words_of_cost(page) -> str:
    return page.locator(".bp-cost").text_content()


@pytest.mark.browser
@pytest.mark.parametrize(("values", "reason"), [
    ([10.0, 20, 30, 40, 50, 60, 70, 80, 90], "It exploits"), ([50.0, 10, 10, 10, 10, 10, 10, 10, 50], "It explores"),
    ([50.0, 10, 10, 10, 94, 94, 94, 10, 50], "Some of both: the mean there, 78.7, is below the best, but"),
])  # fmt: skip
def test_it_says_why_the_rule_looks_there(show, values, reason: str):  # noqa: F811
    """On a slope it goes on upwards; from two low values it goes far away; between two high ones it looks at both."""
    length = 1.0 if reason == "It explores" else 6.0
    page = show(SearchStepper(np.arange(9.0), values, length=length, noise=0.5, budget=9, start=2))
    assert reason in words(page), words(page)


@pytest.mark.browser
def test_a_kernel_and_the_page_share_the_search(show):  # noqa: F811
    """The module on a model as anywidget has it: what the kernel sets is shown, what a reader does is set and saved."""
    page = show(stepper())
    result = page.evaluate(
        f"""async () => {{ {MODEL}
          const el = document.body.appendChild(document.createElement("div"));
          const clean = widget.render({{ model, el }});
          const text = () => el.querySelector(".bp-text").textContent;
          model.set("tried", [[5, "you"]]);
          const told = text();
          el.querySelector(".bp-next").click();
          const after = [state.tried.length, state.tried[1][1], saved > 0];
          clean();
          return [told, after, handlers.length, el.childElementCount];
        }}"""
    )
    told, after, handlers, children = result
    assert "1 tried" in told and after == [2, "rule", True] and (handlers, children) == (0, 0)


@pytest.mark.browser
def test_play_lets_the_rule_search_until_the_reader_takes_over(show):  # noqa: F811
    page = show(stepper())
    page.locator(".bp-play").click()
    page.wait_for_function("() => Number(document.querySelector('.bp-slider').value) > 4")
    page.locator(".bp-sobol").click()
    stopped = words(page)
    page.wait_for_timeout(2000)
    assert words(page) == stopped and page.locator(".bp-play").text_content() == "Play"


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800])
def test_the_plot_stays_where_it_is(show, width: int):  # noqa: F811
    page = show(stepper(), width=width)
    page.locator(".bp-slider").press("Home")
    tops = []
    for _ in range(16):
        tops.append(page.locator(".bp-drawing").bounding_box()["y"])
        page.locator(".bp-next").click(force=True)
    assert len(set(tops)) == 1


@pytest.mark.browser
def test_it_keeps_the_contract_of_all_widgets(show):  # noqa: F811
    page = show(stepper())
    page.locator(".bp-reveal").check()
    step_through(page, page.locator(".bp-widget"), "search")


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "width"), [("light", 800), ("dark", 800), ("light", 390), ("dark", 320)])
def test_it_is_accessible_and_fits(show, theme: str, width: int):  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    page = show(stepper(), theme=theme, width=width)
    page.locator(".bp-next").click()
    page.locator(".bp-pick").focus()
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [pair for pair in page.locator(".bp-widget").evaluate(CONTRAST) if pair[0] < 4.5] == []
    small = page.locator(".bp-widget").evaluate(
        """(root) => [...root.querySelectorAll("button, input, [role=slider]")].map((e) => e.getBoundingClientRect())
            .filter((box) => box.width < 24 || box.height < 24).length""")  # fmt: skip
    assert small == 0
    outside = page.locator(".bp-widget").evaluate(
        """(root) => [...root.querySelectorAll("svg.bp-figure text")].filter((t) => t.textContent).filter((t) => {
            const [text, plot] = [t, t.closest("svg.bp-figure")].map((e) => e.getBoundingClientRect());
            return text.left < plot.left - 1 || text.right > plot.right + 1 || text.bottom > plot.bottom + 1;
        }).map((t) => t.textContent)""")  # fmt: skip
    assert outside == []
