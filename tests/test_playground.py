"""The playground: its arithmetic on the page against Python's, from the same weights, batches and draws."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

import bioplaus_lite.widgets
from bioplaus_lite.data import load_arrays, stratified_indices
from bioplaus_lite.measures import update_angles, weight_angles
from bioplaus_lite.models.microcircuits import PyramidalNetwork
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters
from bioplaus_lite.networks import MLP
from bioplaus_lite.rules import RULES, make_rule
from bioplaus_lite.widgets.players.playground import small_digits

JS = Path(bioplaus_lite.widgets.__file__).parent / "js/playground/rules.js"
CLOSE = 1e-6  # of the largest entry of a tensor
STEPS, BATCH = 20, 9
SIZES = {1: (2, 5, 3), 3: (2, 6, 5, 4, 3)}  # no two neighbours alike, so that no transposition goes unseen
DOUBLE = partial(MLP, dtype=torch.float64)


@dataclass
class Twin:
    """A rule here and on the page: how Python makes it, and what JavaScript calls the same options."""

    options: dict = field(default_factory=dict)
    called: dict | None = None  # the options on the page, where they have other names
    network: type | partial | None = None  # of a rule that takes its own
    slower: float = 1.0  # a factor of the rates

    def on_page(self) -> dict:
        return self.options if self.called is None else self.called


RATES = partial(RateNetwork, constants=SegregatedParameters.rate_limit(), dtype=torch.float64)
TWINS = {
    "backprop": Twin(),
    "fa": Twin({"scale": 2.0}),
    "dfa": Twin({"scale": 2.0}),
    "usf": Twin(),
    "kolen_pollack": Twin({"decay": 0.2}),
    "weight_mirror": Twin({"rate": 0.1, "samples": 7}, {"mirror": 0.1, "samples": 7}),
    "tp": Twin({"alpha": 5.0, "noise": 0.3}, slower=0.3),
    "dtp": Twin({"alpha": 3.0, "noise": 0.3}),
    "sdtp": Twin({"noise": 0.3, "step": 0.7}),
    "segregated": Twin(network=RATES, slower=0.1),
    "microcircuits": Twin({"lam": 0.3}, network=partial(PyramidalNetwork, width=1.0, dtype=torch.float64)),
}
CASES = [(depth, seed, rate) for depth in SIZES for seed in (0, 1) for rate in (0.05, 0.5)]
ACTIVATIONS = {(1, 0): "relu", (1, 1): "sigmoid", (3, 0): "tanh", (3, 1): "relu"}

COMPUTE = """async ([source, cases]) => {
  const rules = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const plain = (value) => {
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value) || ArrayBuffer.isView(value)) return Array.from(value, plain);
    return Object.fromEntries(Object.entries(value).map(([name, of]) => [name, plain(of)]));
  };
  return cases.map(({ rule, tensors, activation, options, rate, feedbackRate, X, Y, draws, lesion }) => {
    const net = rules.load(rule, tensors, { activation, options });
    const held = (more) => rules.gradients(net, X, Y, { draws: draws[0], learning: false, ...more });
    const { forward, feedback, errors, arriving } = rules.gradients(net, X, Y, { draws: draws[0] });
    const got = {
      forward, feedback, errors, arriving, lesioned: held({ down: lesion }), silent: held({ silence: true }),
      turned: rules.angleToBackprop(net, X, Y), apart: rules.weightAngle(net), scores: rules.observe(net, X).at(-1),
      losses: [], accuracy: rules.accuracy(net, X, Y),
    };
    draws.forEach((drawn, k) => {
      got.losses.push(rules.step(net, X, Y, { rate, feedbackRate, draws: drawn }));
      if (k === 0) got.one = plain({ ...net.forward, ...net.feedback });
    });
    got.all = { ...net.forward, ...net.feedback };
    return plain(got);
  });
}"""


# --- what Python finds ---------------------------------------------------------------------------------------


def tensors_of(rule) -> dict[str, torch.Tensor]:
    """Weights by the names they have on the page: what is a rule's own, and what is its network's."""
    named = {n: t for n, t in rule.state_dict().items() if not n.endswith("_extra_state")}
    return {name.removeprefix("network."): t.detach().clone() for name, t in named.items()}


def draws_of(rule) -> dict[int, torch.Tensor]:
    """What the rule is about to draw, by a copy of its generator."""
    sizes, ahead = rule.network.sizes, torch.Generator()
    if hasattr(rule, "_generator"):
        ahead.set_state(rule._generator.get_state())
    if hasattr(rule, "mirror"):
        coins = {l: (rule.samples, sizes[l - 1]) for l in range(2, rule.network.depth + 1)}
        return {l: torch.randint(0, 2, shape, generator=ahead).double() * 2 - 1 for l, shape in coins.items()}
    inverses = getattr(rule, "inverses", ())
    return {l: torch.randn((BATCH, sizes[l - 1]), generator=ahead, dtype=torch.float64) for l in inverses}


def held_gradients(rule, x, y, lesion: dict[str, torch.Tensor], error: float) -> dict[str, torch.Tensor]:
    """What the rule does when the weights are others on the way down, or the error at the top is another."""
    if rule.online:  # reads no weight on its way down, and is not told an error
        return {name: g * error for name, g in rule.gradients(x, y).items()}
    held, true = rule.hold(x, y), {name: rule.network._parameters[name].detach().clone() for name in lesion}
    for name, W in lesion.items():
        rule.network._parameters[name].data.copy_(W)
    found = held.again(held.error * error)
    for name, W in true.items():
        rule.network._parameters[name].data.copy_(W)
    return found


@cache
def case_of(name: str, depth: int, seed: int, rate: float) -> tuple[dict, dict]:
    """A case as the page takes it, and what it should find."""
    twin, generator = TWINS[name], torch.Generator().manual_seed(100 + seed)
    if twin.network is None:
        network = DOUBLE(SIZES[depth], activation=ACTIVATIONS[depth, seed], init="he", seed=seed)
    else:
        network = twin.network(SIZES[depth], seed=seed)
    own = {} if name == "backprop" else {"seed": seed + 1}  # of weights that carry signals down
    rule = make_rule(name, network, **own, **twin.options)
    for parameter_name, parameter in rule.named_parameters():  # no bias at 0, or one that is forgotten goes unseen
        if parameter_name.split(".")[-1][0] in "bc" and twin.network is not RATES:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x = torch.rand((BATCH, 2), generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (BATCH,), generator=generator)
    lesion = {n: W + torch.randn(W.shape, generator=generator, dtype=torch.float64)
              for n, W in tensors_of(rule).items() if n[0] == "W" and n[1:].isdigit()}  # fmt: skip

    rates = [rate * twin.slower / l for l in range(1, depth + 2)] if rule.online else rate * twin.slower
    feedback_rate = 0.3 * rate
    groups = [g | {"lr": feedback_rate if g["name"] == "feedback" else rates} for g in rule.parameter_groups()]
    if rule.online:
        groups = [g | {"lr": r} for g, r in zip(groups, rates, strict=True)]
    optimizer = torch.optim.SGD(groups)

    signals, scores = rule.signals(x, y), network(x).detach()
    wanted = {
        "lesioned": held_gradients(rule, x, y, lesion, 1.0), "silent": held_gradients(rule, x, y, {}, 0.0),
        "turned": update_angles(rule, x, y), "apart": weight_angles(rule), "scores": scores,
        "errors": {} if rule.online else signals["error"], "losses": [],
        "accuracy": (scores.argmax(1) == y).double().mean().item(),
    }  # fmt: skip
    h = network.activities(x)
    steps = {l: (target - h[l]).detach() for l, target in signals.get("target", {}).items()}
    wanted["arriving"] = steps | signals.get("apical", {})
    case = {"rule": name, "tensors": tensors_of(rule), "activation": network.activation, "options": twin.on_page(),
            "rate": rates, "feedbackRate": feedback_rate, "X": x, "Y": y, "lesion": lesion, "draws": []}  # fmt: skip
    for k in range(STEPS):
        case["draws"].append(draws_of(rule))
        if k == 0:
            gradients_of_a_step(rule, x, y, wanted)
        wanted["losses"].append(rule.learn(x, y, optimizer).item())
        if k == 0:
            wanted["one"] = tensors_of(rule)
    wanted["all"] = tensors_of(rule)
    return as_plain(case), wanted


def gradients_of_a_step(rule, x, y, wanted: dict) -> None:
    """Those of training mode, decay and draws included; a mirror, which turns before, is left where it is."""
    before, places = tensors_of(rule), rule.progress_state()
    if hasattr(rule, "mirror"):
        rule.eval()
    rule.assign_gradients(x, y)
    rule.train()
    rule.take_up(places)
    assert all(torch.equal(before[name], t) for name, t in tensors_of(rule).items())
    own = {n: p.grad.clone() for n, p in rule._parameters.items() if p is not None}
    wanted["forward"] = {n: p.grad.clone() for n, p in rule.network._parameters.items()}
    wanted["feedback"] = own


def as_plain(value):
    if isinstance(value, dict):
        return {str(name): as_plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(v) for v in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


# --- the two against each other ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


def computed(page, cases: list[dict], source: str | None = None) -> list[dict]:
    return page.evaluate(COMPUTE, [source or JS.read_text("utf-8"), cases])


def off(got, wanted) -> float:
    """The largest difference, relative to the largest entry; infinite if a shape or one of the two is missing."""
    got, wanted = (np.asarray(as_plain(v), dtype=float) for v in (got, wanted))
    if got.shape != wanted.shape or (np.isnan(got) != np.isnan(wanted)).any():
        return np.inf
    size, miss = np.nanmax(np.abs(wanted), initial=0), np.nanmax(np.abs(got - wanted), initial=0)
    return float(miss / size if size > 1e-12 else miss)


def disagreements(got: dict, wanted: dict) -> dict[str, float]:
    """How far apart everything is that a case holds, by name. Angles are compared as parts of a half turn."""
    found = {name: off(got[name], wanted[name]) for name in ("scores", "losses", "accuracy")}
    for part in ("forward", "feedback", "errors", "arriving", "one", "all"):
        for name, value in wanted[part].items():
            found[f"{part} {name}"] = off(got[part].get(str(name)), value)
    for part in ("lesioned", "silent"):
        both = got[part]["forward"] | got[part]["feedback"]
        found |= {f"{part} {name}": off(both.get(name), value) for name, value in wanted[part].items()}
    for part in ("turned", "apart"):
        pairs = [(got[part].get(str(layer)), value) for layer, value in wanted[part].items()]
        found |= {f"{part} {i}": off([a, 180], [b, 180]) for i, (a, b) in enumerate(pairs)}
    return found


@pytest.mark.parametrize("name", TWINS)
def test_the_page_computes_what_python_does(page, name: str):
    cases = [case_of(name, *case) for case in CASES]
    for (_, wanted), got in zip(cases, computed(page, [case for case, _ in cases]), strict=True):
        found = disagreements(got, wanted)
        assert len(wanted["all"]) == len(got["all"])
        assert off(wanted["one"]["W1"], wanted["all"]["W1"]) > 1e-4  # it has learned, and not blown up
        assert max(map(abs, wanted["losses"])) < 30
        worst = max(found, key=found.__getitem__)
        assert found[worst] < CLOSE, f"{worst}: {found[worst]:.1e}"


# Slips that the test must notice, by the rule at which it must: what stands in the file, and what might have.
SLIPS = {
    "backprop": [
        ("(v - (i === Y[b])) / scores.length", "v - (i === Y[b])"),
        ("slope: (h) => 1 - h * h", "slope: (h) => 1 - h"),
        ("row[j] += to[i] * pre[b][j]", "row[j] = to[i] * pre[b][j]"),
        ("sum = bias ? bias[i] : 0", "sum = 0"),
    ],
    "fa": [
        ("  way: own,\n  begin(net) {\n    own", "  way: transposed,\n  begin(net) {\n    own"),
        ("errors[l - 1] = times(arriving[l - 1], slope(net, h[l - 1]));", "errors[l - 1] = arriving[l - 1];"),
    ],
    "dfa": [
        ("arriving[l] = through(feedbackOf(net, l + 1), top);",
         "arriving[l] = through(transpose(pathAbove(net, l + 1)), top);"),
        ("errors[l] = times(arriving[l], slope(net, h[l]));", "errors[l] = times(arriving[l], h[l]);"),
        ("for (let k = l + 1; k <= net.depth; k += 1) path", "for (let k = l + 1; k <= l; k += 1) path"),
    ],
    "usf": [
        ("Math.sign(w) * size", "w * size"),
        ("Math.sign(w) * size, transpose(down[", "Math.sign(w) * size, transpose(net.forward["),
    ],
    "kolen_pollack": [
        ("g + net.options.decay * w", "g"),
        ("decayed(transpose(found.forward[W]), net.feedback[B])", "transpose(found.forward[W])"),
        ("feedbackRate ?? net.options.feedbackRate ?? up", "up"),
        ("for (let l = 2; l <= net.depth; l += 1) {\n      const [W, B]",
         "found.forward.W1 = decayed(found.forward.W1, net.forward.W1);\n"
         "    for (let l = 2; l <= net.depth; l += 1) {\n      const [W, B]"),
        ("return learning && rule.finish", "return rule.finish"),
    ],
    "weight_mirror": [
        ("(1 - mirror) * b", "b"),
        ("(mirror / samples) * s", "mirror * s"),
        ("rule.prepare?.(net, now);\n  const found = gradients(net, X, Y, { draws: now, silence, down });",
         "const found = gradients(net, X, Y, { draws: now, silence, down });\n  rule.prepare?.(net, now);"),
    ],
    "tp": [
        ("v - net.options.alpha * e", "v + net.options.alpha * e"),
        ("corrects: false", "corrects: true"),
        ("through(own(net, l), u, net.feedback[`c${l}`])", "through(own(net, l), u)"),
        ("rule.denoises ? h[l - 1] : below", "h[l - 1]"),
        ("feedbackOf(net, net.depth, down), top", "feedbackOf(net, net.depth), top"),
    ],
    "dtp": [
        ("corrects: true", "corrects: false"),
        ("2 / miss.length", "1 / miss.length"),
        ("v + noise * z", "v"),
        ("v + (s - r)", "v + (r - s)"),
    ],
    "sdtp": [
        ("net.options.step * o.length * e", "net.options.step * e"),
        ("denoises: true", "denoises: false"),
        ("(l < net.depth ? u : softmax(u))", "u"),
        ("const o = softmax(h[net.depth]);", "const o = h[net.depth];"),
    ],
    "segregated": [
        ("presynaptic: (h) => scaled(h, PHI)", "presynaptic: (h) => h"),
        ("if (rule.online && X.length > 1)", "if (false)"),
        ("(G_LEAK + G_DENDRITE + G_TEACH)) - sigmoid(v)", "(G_DENDRITE + G_TEACH)) - sigmoid(v)"),
        ("through(feedbackOf(net, l + 1), scaled(sent, PHI))", "through(feedbackOf(net, l + 1), sent)"),
        ("rates[Number(/\\d+$/.exec(name)) - 1] ?? rates", "rates[0]"),
    ],
    "microcircuits": [
        ("all - rateChange(r, lam * d)", "all"),
        ("lam ** (net.depth - l + 1)", "lam ** (net.depth - l)"),
        ("[WRONG_RATE, RIGHT_RATE] = [0.1, 0.8]", "[WRONG_RATE, RIGHT_RATE] = [0.1, 0.9]"),
        ("shift = scaled(arriving[l - 1], lam);", "shift = arriving[l - 1];"),
        ("objective: (net, scores, top) =>", "unused: (net, scores, top) =>"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "slip"), [(name, slip) for name, slips in SLIPS.items() for slip in slips])
def test_a_slip_is_noticed(page, name: str, slip: tuple[str, str]):
    source, (stands, might) = JS.read_text("utf-8"), slip
    assert source.count(stands) == 1
    cases = [case_of(name, 3, 0, 0.5), case_of(name, 3, 1, 0.5)]
    try:
        found = computed(page, [case for case, _ in cases], source.replace(stands, might))
    except Exception as error:  # of the page: shapes that do not meet
        assert "TypeError" in str(error)
        return
    assert max(max(disagreements(got, wanted).values()) for (_, wanted), got in zip(cases, found, strict=True)) > CLOSE


# --- networks that begin on the page -------------------------------------------------------------------------

ON_PAGE = """async ([source, given, body]) => {
  const rules = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  return await new Function("rules", "given", body)(rules, given);
}"""
SHAPES = """const net = rules.create(given.rule, given.sizes, { random: rules.mulberry32(3), ...given.how });
const all = { ...net.forward, ...net.feedback };
const flat = (v) => (v[0].length === undefined ? Array.from(v) : v.flatMap((row) => Array.from(row)));
return Object.fromEntries(Object.entries(all).map(([name, v]) => [name, [v.length, v[0].length ?? 0, flat(v)]]));"""
AS_CALLED = {"mirror": "rate", "downWidth": "down_width"}  # options that have other names in Python


def on_page(page, body: str, given=None):
    return page.evaluate(ON_PAGE, [JS.read_text("utf-8"), given, body])


NUMBERS = """const [a, b, c] = [1, 1, 2].map(rules.mulberry32);
const random = rules.mulberry32(5);
return [a(), b(), c(), Array.from({ length: 4000 }, () => rules.normal(random))];"""


def test_random_numbers(page):
    """The generator is the published one; its normal numbers are normal."""
    first, again, other, draws = on_page(page, NUMBERS)
    assert first == again == pytest.approx(0.6270739405881613, abs=1e-15) != other
    draws = np.array(draws)
    assert abs(draws.mean()) < 0.06 and abs(draws.std() - 1) < 0.05 and abs((np.abs(draws) < 1).mean() - 0.683) < 0.03


@pytest.mark.parametrize("name", TWINS)
def test_a_network_begins_as_in_python(page, name: str):
    """The same weights by name, shape and distribution."""
    twin, sizes = TWINS[name], (30, 40, 35, 20)
    init = "glorot" if name in ("tp", "dtp", "sdtp") else "pytorch"
    network = (twin.network or partial(DOUBLE, init=init))(sizes)
    wanted = tensors_of(make_rule(name, network, **twin.options))
    how = {"options": twin.on_page() | ({"width": 1.0} if name == "microcircuits" else {})}
    got = on_page(page, SHAPES, {"rule": name, "sizes": sizes, "how": how})
    assert got.keys() == wanted.keys()
    for tensor, (rows, columns, values) in got.items():
        like = wanted[tensor].double()
        assert (rows, columns) == (*like.shape, 0)[:2]
        spread, rare = like.std().item(), 5 / np.sqrt(len(values))  # five standard errors
        assert abs(np.mean(values) - like.mean()) <= np.sqrt(2) * rare * (spread or 0.1 * like.mean())
        assert np.std(values) == pytest.approx(spread, rel=0.7 * rare)
        assert np.abs(values).max() == pytest.approx(like.abs().max().item(), rel=0.1)


def test_options_and_labels_are_those_of_python(page):
    table = on_page(page, "return JSON.parse(JSON.stringify(rules.RULES));")
    assert list(table) == list(TWINS)
    for name, entry in table.items():
        card = RULES[name]
        assert entry["label"] == card.label and entry["hasFeedback"] == (name != "backprop")
        defaults = {n: p.default for n, p in inspect.signature(card.rule.__init__).parameters.items()}
        defaults |= card.settings.get("TP", {})  # the alpha of the trainings on record
        for option, (value, least, most) in entry["options"].items():
            assert value is None or least <= value <= most
            if option not in ("rate", "feedbackRate", "angle", "width"):  # these are the page's
                assert value == defaults[AS_CALLED.get(option, option)]


TURNED = """return [0, 30, 90, 180, null].map((angle) => {
  const how = { options: { angle, scale: 2 }, random: rules.mulberry32(1) };
  const net = rules.create(given, [4, 9, 7, 3], how);
  const size = (B) => Math.hypot(...B.flatMap((row) => Array.from(row)));
  return [Object.values(rules.weightAngle(net)), Object.values(net.feedback).map(size)];
});"""


@pytest.mark.parametrize("name", ["fa", "dfa"])
def test_feedback_begins_at_the_angle_that_is_asked_for(page, name: str):
    found = on_page(page, TURNED, name)
    for asked, (angles, sizes) in zip([0, 30, 90, 180, None], found, strict=True):
        assert sizes == pytest.approx(found[-1][1])  # it is turned, and stays as long
        assert asked is None or angles == pytest.approx([asked] * 2, abs=1e-6)


RING = """const run = () => {
  const random = rules.mulberry32(2);
  const net = rules.create(given, [2, 8, 2], { random });
  const [least, most] = rules.RULES[given].inputs ?? [-1, 1];
  const Y = Array.from({ length: 120 }, (_, i) => i % 2);
  const X = Y.map((k) => {
    const [turn, radius] = [2 * Math.PI * random(), (k ? 0.85 : 0.35) + 0.06 * rules.normal(random)];
    const at = (v) => least + ((most - least) * (v + 1)) / 2;
    return Float64Array.of(at(radius * Math.cos(turn)), at(radius * Math.sin(turn)));
  });
  const before = rules.accuracy(net, X, Y);
  for (let t = 0; t < 1500; t += 1) {
    const from = (t * 20) % 120;
    rules.step(net, X.slice(from, from + 20), Y.slice(from, from + 20));
  }
  return [before, rules.accuracy(net, X, Y)];
};
return [...run(), run()[1]];"""


@pytest.mark.parametrize("name", TWINS)
def test_every_rule_learns_what_no_line_divides(page, name: str):
    """From its own start, by its own draws and at its default rates: a disc in a ring."""
    before, after, again = on_page(page, RING, name)
    assert before < 0.75 and after > 0.8 and again == after


DRAWS = """const net = (rule) => rules.create(rule, [3, 6, 5, 4], { random: rules.mulberry32(4) });
const shapes = (draws) => Object.entries(draws).map(([l, m]) => [l, m.length, m[0].length]);
const coins = rules.draw(net("weight_mirror"), 9);
const flat = (M) => M.flatMap((row) => Array.from(row));
const big = rules.create("backprop", [40, 40, 40]);
const [sum, size] = [(v) => v.reduce((a, b) => a + b * b, 0), flat(big.forward.W2)];
const W2 = flat(rules.lesion(big, 0.5, rules.mulberry32(1)).W2);
const [X, Y] = [[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]].map((x) => Float64Array.from(x)), [0, 1]];
const quiet = { silence: true, learning: false };
const still = (rule) => Object.entries(rules.gradients(net(rule), X, Y, quiet).forward)
  .every(([name, g]) => (name[0] === "b" ? Array.from(g) : flat(g)).every((v) => v === 0));
let asked = 0;
const counted = rules.create("dtp", [3, 6, 5, 4], { random: rules.mulberry32(4) });
counted.random = () => { asked += 1; return 0.5; };
rules.angleToBackprop(counted, X, Y);
return [
  [shapes(coins), [...new Set(flat(coins[2]))].sort()], shapes(rules.draw(net("sdtp"), 9)),
  shapes(rules.draw(net("fa"), 9)), Math.sqrt(sum(W2.map((v, i) => v - size[i])) / sum(size)),
  Object.keys(rules.RULES).filter(still), asked,
];"""


def test_draws_and_lesions(page):
    """What a step draws is of the shapes and kinds that Python draws; a lesion is of the size that is asked for."""
    mirror, noise, none, jitter, silent, asked = on_page(page, DRAWS)
    assert mirror == [[["2", 16, 6], ["3", 16, 5]], [-1, 1]]
    assert noise == [["2", 9, 6], ["3", 9, 5]] and none == []
    assert jitter == pytest.approx(0.5, rel=0.1)
    assert asked == 0  # a measure leaves the next step as it was
    # Without a teacher TP alone goes on: what its inverses miss looks like an error.
    assert silent == [name for name in TWINS if name != "tp"]


@pytest.mark.parametrize(("call", "message"), [
    ('create("hebb", [2, 3, 2])', "rule must be one of backprop, .*, not hebb"),
    ('create("microcircuits", [2, 3, 2], { activation: "relu" })', "of microcircuits must be .*sigmoid, not relu"),
    ('create("fa", [2, 3, 2], { activation: "step" })', "of fa must be one of relu, tanh, sigmoid, not step"),
    ('create("tp", [2, 2])', "1 to 4 hidden layers, not 0"),
    ('create("fa", [2, 3, 2], { options: { alpha: 1 } })', "options of fa are rate, scale, angle, not alpha"),
])  # fmt: skip
def test_what_makes_no_network_is_refused(page, call: str, message: str):
    with pytest.raises(Exception, match=message):
        on_page(page, f"rules.{call}")


# --- data ----------------------------------------------------------------------------------------------------

DATA = """async ([rules, data, given, body]) => {
  const url = (source) => URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const module = await import(url(data.replace("./rules.js", url(rules))));
  return new Function("data", "rules", "given", body)(module, await import(url(rules)), given);
}"""


def with_data(page, body: str, given=None):
    return page.evaluate(DATA, [JS.read_text("utf-8"), (JS.parent / "data.js").read_text("utf-8"), given, body])


PLANE = """return Object.keys(data.POINTS).map((name) => {
  const points = (seed, noise) => data.scatter(name, 200, { noise, random: rules.mulberry32(seed) });
  const plain = ({ X, Y, classes }) => [X.map((x) => Array.from(x)), Y, classes];
  return [name, ...[points(1), points(1), points(2), points(1, 0)].map(plain)];
});"""


def test_points_in_the_plane(page):
    """Seeded, in a square, in two classes in turn, which a nearest neighbour can tell apart and a line cannot."""
    found = with_data(page, PLANE)
    assert [name for name, *_ in found] == ["moons", "circles", "xor", "spirals"]
    for name, one, again, other, exact in found:
        assert one == again != other and one[2] == 2 and one[1] == [0, 1] * 100
        x, y = np.array(exact[0]), np.array(exact[1])
        assert np.abs(x).max() <= 1 and np.abs(one[0]).max() < 1.25
        apart = np.linalg.norm(x[:, None] - x[None], axis=2) + 9 * np.eye(200)
        nearest = (y[apart.argmin(1)] == y).mean()
        design = np.column_stack([x, np.ones(200)])
        line = ((design @ np.linalg.lstsq(design, 2 * y - 1.0, rcond=None)[0] > 0) == y).mean()
        assert nearest > 0.93 and line < 0.95, name


DIGITS = """const { X, Y, classes } = data.digitsOf(given);
return [X.map((x) => Array.from(x)), Y, classes, data.inRange(X, [0, 1]).map((x) => Array.from(x))];"""


def test_digits_are_those_of_mnist(page):
    packed = small_digits()
    assert len(json.dumps(packed)) < 36_000 and packed == small_digits() != small_digits(seed=1)
    for part, n in (("train", 600), ("test", 200)):
        x, y = (load_arrays("mnist")[f"{axis}_{part}"] for axis in "xy")
        chosen = stratified_indices(y, n, 0)
        images = x[chosen].reshape(n, 28, 28)
        X, Y, classes, shares = with_data(page, DIGITS, packed[part])
        assert classes == 10 and y[chosen].tolist() == Y and np.bincount(Y).min() > 0.08 * n
        for i in (0, 1, n - 1):
            block = images[i, 2 + 3 * 4 : 5 + 3 * 4, 2 + 3 * 3 : 5 + 3 * 3].mean() / 255  # of row 4 and column 3
            assert X[i][4 * 8 + 3] == pytest.approx(2 * block - 1, abs=1 / 15)
        assert np.array(shares) == pytest.approx((np.array(X) + 1) / 2)
        assert np.array(shares) * 15 == pytest.approx(np.rint(np.array(shares) * 15))


@pytest.mark.parametrize("wrong", [{"train": 0}, {"test": 2.5}, {"seed": -1}, {"train": 10_000}])
def test_digits_that_there_are_not_are_refused(wrong: dict):
    value = next(iter(wrong.values()))
    with pytest.raises(ValueError, match=f"must be .*not {value}"):
        small_digits(**wrong)
