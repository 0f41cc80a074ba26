"""The playground: its arithmetic on the page against Python's, from the same weights, batches and draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

import bioplaus_lite.widgets
from bioplaus_lite.measures import update_angles, weight_angles
from bioplaus_lite.models.microcircuits import PyramidalNetwork
from bioplaus_lite.models.segregated import RateNetwork, SegregatedParameters
from bioplaus_lite.networks import MLP
from bioplaus_lite.rules import make_rule

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
    wanted["arriving"] = {l: (t - h[l]).detach() for l, t in signals.get("target", {}).items()} | signals.get("apical", {})
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
        ("  way: own,\n  begin(net) {\n    ownFeedback(net);", "  way: transposed,\n  begin(net) {\n    ownFeedback(net);"),
        ("errors[l - 1] = times(arriving[l - 1], slope(net, h[l - 1]));", "errors[l - 1] = arriving[l - 1];"),
    ],
    "dfa": [
        ("arriving[l] = through(feedbackOf(net, l + 1), top);",
         "arriving[l] = through(l + 1 < net.depth ? feedbackOf(net, l + 1) : transposed(net, l + 1, net.forward), top);"),
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
        ("feedbackRate ?? net.options.feedbackRate", "rate"),
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
        ("rates[Number(name.slice(1)) - 1] ?? rates", "rates[0]"),
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
