"""Every number that a player says or draws is one that the rule, asked in another way, gives as well."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable

import numpy as np
import pytest
import test_phases
import test_walks
import test_widgets
import torch
import torch.nn.functional as F

from bioplaus_lite import MLP
from bioplaus_lite.models.microcircuits import PyramidalNetwork
from bioplaus_lite.rules import Backprop, DifferenceTargetPropagation, Microcircuits, TargetPropagation
from bioplaus_lite.widgets.players.backprop import backprop_walk
from bioplaus_lite.widgets.players.microcircuits import microcircuit_walk
from bioplaus_lite.widgets.players.targets import target_walk
from bioplaus_lite.widgets.players.trainings import training_walk

browser, show = test_widgets.browser, test_widgets.show

NUMBER = re.compile(r"(?:[−+][ \u00a0]?)?\d+(?:\.\d+)?(?:×10[⁻⁰¹²³⁴-⁹]+)?")
DIGIT = re.compile(r"[\d⁰¹²³⁴-⁹₀-₉]")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-", " \u00a0")


def at(layer: int, letter: str) -> str:
    return letter + chr(0x2080 + layer)


def fixed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def two(value: float) -> str:
    figures, _, power = f"{value:#.2g}".rstrip(".").partition("e") if value else ("0", "", "")
    return figures.replace("-", "−") + (f"×10{str(int(power)).translate(RAISED)}" if power else "")


def most(*values: np.ndarray) -> str:
    return two(np.abs(np.concatenate(values)).max())


def side(*columns: np.ndarray) -> np.ndarray:
    return np.column_stack(columns)


def logistic(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def accounted(text: str, parts: Iterable[str], values: Iterable[float] = ()) -> None:
    """``text`` has these parts, then numbers that are these values as far as they are printed, and no other digit."""
    rest = text
    for part in parts:
        assert part in rest, f"{part!r} is not in {text!r}"
        rest = rest.replace(part, "|", 1)
    shown, values = NUMBER.findall(rest), list(values)
    assert len(shown) == len(values) and not DIGIT.search(NUMBER.sub("", rest)), f"unaccounted: {rest!r} of {text!r}"
    for number, value in zip(shown, values, strict=True):
        figures, _, power = number.partition("×10")
        decimals = len(figures.partition(".")[2])
        unit = 10.0 ** (int(power.translate(LOWERED) or 0) - decimals) if decimals else 1e-9
        said = float(figures.translate(LOWERED)) * 10.0 ** int(power.translate(LOWERED) or 0)
        assert said == pytest.approx(value, rel=0, abs=0.501 * unit), f"{number} for {value} in {text!r}"


def rows_account(rows: list[list[str]], names: list[str], parts: Iterable, values: Iterable) -> None:
    assert [row[0] for row in rows] == names
    for row, words, numbers in zip(rows, parts, values, strict=True):
        accounted(" | ".join(row[1:]), words, numbers)


def drawn(panel: dict, step: int, wanted: Iterable) -> None:
    tolerance = 5.1e-4 * np.abs(panel["values"]).max()
    np.testing.assert_allclose(panel["values"][step], np.concatenate(list(wanted)), rtol=0, atol=tolerance)


def sums(W: np.ndarray, v: np.ndarray, b: np.ndarray, *more: np.ndarray) -> list[list[float]]:
    """Each row's factors, its bias, its sum, and what follows."""
    return [
        [*side(w, v).ravel(), *([bias] if bias else []), w @ v + bias, *rest]
        for w, bias, *rest in zip(W, b, *more, strict=True)
    ]


def biased(network: MLP, seed: int) -> MLP:
    generator = torch.Generator().manual_seed(seed)
    for layer in range(1, network.depth + 1):
        torch.nn.init.uniform_(network.bias(layer), -0.4, 0.4, generator=generator)
    return network


def arrays(network: MLP) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    layers = range(1, network.depth + 1)
    return ({l: network.weight(l).detach().numpy() for l in layers},
            {l: network.bias(l).detach().numpy() for l in layers})  # fmt: skip


def names_of(sizes: tuple[int, ...]) -> list[list[str]]:
    return [[f"{l}{letter}" for letter in "abcd"[:n]] for l, n in enumerate(sizes)]


def inputs(n: int) -> torch.Tensor:
    return torch.tensor([[0.9, -0.1, 0.6, 0.3][:n]], dtype=torch.float64)


def after_a_step(rule, x: torch.Tensor, y: torch.Tensor, rate: float) -> tuple[list[torch.Tensor], float]:
    """Activities and loss of a copy whose weights have gone along their ``.grad``."""
    rule = copy.deepcopy(rule)
    rule.assign_gradients(x, y)
    with torch.no_grad():
        for parameter in rule.network.parameters():
            parameter -= rate * parameter.grad
        h = rule.network.activities(x)
        return h, F.cross_entropy(h[-1], y).item()


@pytest.mark.parametrize(
    ("sizes", "activation", "seed", "label", "rate"), [((3, 4, 3, 2), "tanh", 3, 1, 0.3), ((4, 3, 4), "relu", 5, 0, 2)]
)
def test_walk_of_backprop(sizes, activation, seed, label, rate):
    network = biased(MLP(sizes, activation=activation, init="he", seed=seed, dtype=torch.float64), seed)
    x, y, L, names = inputs(sizes[0]), torch.tensor([label]), network.depth, names_of(sizes)
    currents: list[torch.Tensor] = []
    scores = network.activities(x, currents)[-1]
    loss = F.cross_entropy(scores, y)
    delta = [np.zeros(0), *(d[0].numpy() for d in torch.autograd.grad(loss, currents))]
    rule = Backprop(copy.deepcopy(network))
    rule.assign_gradients(x, y)
    h = [v[0].detach().numpy() for v in network.activities(x)]
    p, (moved, loss_after) = np.exp(h[-1]) / np.exp(h[-1]).sum(), after_a_step(rule, x, y, rate)
    slope = [1 - v**2 if activation == "tanh" else 1.0 * (v > 0) for v in h]
    W, b = arrays(network)
    gradient = {l: rule.network.weight(l).grad.numpy() for l in W}
    spec = backprop_walk(network, x, y, rate=rate).spec
    activity, error, read, learned, table, belief = spec["panels"]
    step, start = 0, np.cumsum([0, *sizes])

    def squares(blocks: Iterable[int], of: dict[int, np.ndarray]) -> np.ndarray:
        square = np.zeros((start[-1] - sizes[0], start[-2]))
        for l in blocks:
            square[start[l] - sizes[0] : start[l + 1] - sizes[0], start[l - 1] : start[l]] = of[l]
        return square

    def holds(label, parts, of, words, values, *, up=L, down=L + 1, found=L + 1, reads=(), beliefs=True, acts=h):
        nonlocal step
        assert spec["steps"][step] == label
        accounted(spec["texts"][step], parts)
        rows_account(table["rows"][step], names[of], words, values)
        drawn(activity, step, (v if l <= up else 0 * v for l, v in enumerate(acts)))
        drawn(error, step, (d if l >= down else 0 * d for l, d in enumerate(delta)))
        drawn(belief, step, [np.zeros_like(p) if beliefs is False else p if beliefs is True else beliefs])
        for panel, square in ((read, squares(reads, W)), (learned, squares(range(found, L + 1), gradient))):
            level = (panel["vlim"][1] - panel["vlim"][0]) / 255
            np.testing.assert_allclose(test_walks.pixels(panel, step), square, rtol=0, atol=level)
            np.testing.assert_allclose(panel["ranges"][step], [square.min(), square.max()], rtol=0, atol=level / 2)
        step += 1

    none = [()] * 4
    right = f"right class is {names[-1][label]}."
    holds("input", [f"{at(0, 'h')} = x.", right], 0, none[: sizes[0]], h[0][:, None], up=0, beliefs=False)
    for l in range(1, L + 1):
        a, hl, sent = at(l, "a"), at(l, "h"), f"{at(l, 'W')}{at(l - 1, 'h')} + {at(l, 'b')}"
        equation = f"{hl} = {a} = {sent}." if l == L else f"{a} = {sent} and {hl} = σ({a})."
        words = [("linear" if l == L else activation,)] * sizes[l]
        holds(f"up to {'the scores' if l == L else f'layer {l}'}", [equation, f"its row of {at(l, 'W')}."], l, words,
              sums(W[l], h[l - 1], b[l], h[l]), up=l, reads=[l], beliefs=False)  # fmt: skip
    truth = -np.eye(sizes[-1])[label]
    holds("output error", [f"the loss is {loss:.2f}.", f"error is {at(L, 'δ')} = p − y."], L, [("p = ",)] * sizes[-1],
          side(p, truth, delta[L]), down=L)  # fmt: skip
    for l in range(L, 0, -1):
        values = [[d, *h[l - 1], *g] for d, g in zip(delta[l], gradient[l], strict=True)]
        Wl, dl = at(l, "W"), at(l, "δ")
        holds(f"gradient of {Wl}", [f"∂L/∂{Wl} = {dl}{at(l - 1, 'h')}ᵀ:"], l, none[: sizes[l]], values, down=l, found=l)
        if l > 1:
            k = l - 1
            parts = [f"{at(k, 'δ')} = ({Wl}ᵀ{dl}) ⊙ σ′({at(k, 'a')}).", f"block {Wl} is read again"]
            holds(f"down to layer {k}", parts, k, [("×",)] * sizes[k],
                  sums(W[l].T, delta[l], 0 * h[k], slope[k], delta[k]), down=k, found=l, reads=[l])  # fmt: skip
    now = torch.softmax(moved[-1], 1)[0].numpy()
    holds("update", [f"moves by −{rate:g} times", f"goes from {loss:.2f} to {loss_after:.2f}."], L,
          [(f"p was {q:.2f}", f"p is {s:.2f}") for q, s in zip(p, now, strict=True)], none[: sizes[-1]],
          down=1, found=1, beliefs=now, acts=[v[0].numpy() for v in moved])  # fmt: skip
    assert step == len(spec["steps"])


@pytest.mark.parametrize(
    ("sizes", "activation", "seed", "label", "rate"),
    [((3, 2, 2, 2, 3), "tanh", 2, 1, 0.5), ((4, 2, 2, 4), "sigmoid", 5, 3, 0.2), ((2, 2, 2, 2), "linear", 1, 0, 0.1)],
)
def test_walk_of_targets(sizes, activation, seed, label, rate):
    network = biased(MLP(sizes, activation=activation, init="he", seed=seed, dtype=torch.float64), seed)
    rule = DifferenceTargetPropagation(network, alpha=0.4, noise=0.1, seed=seed)
    x, y, top = inputs(sizes[0]), torch.tensor([label]), network.depth - 1
    sigma = {"tanh": np.tanh, "sigmoid": logistic, "linear": lambda a: a}[activation]
    inverses = {"tanh": lambda h: np.arctanh(h.clip(-0.999, 0.999)), "linear": lambda h: h,
                "sigmoid": lambda h: -np.log(1 / h.clip(0.001, 0.999) - 1)}  # fmt: skip
    (W, b), h = arrays(network), network.activities(x)
    loss = F.cross_entropy(h[-1], y)
    first = (h[top] - 0.4 * torch.autograd.grad(loss, h[top])[0])[0].detach().numpy()
    h = [v[0].detach().numpy() for v in h]
    points, TP, DTP = {top: {"h": (h[top], h[top], 0), "ĥ": (h[top], first, 1)}}, first, first
    spec = target_walk(rule, x, y, rate=rate).spec
    said = dict(zip(spec["steps"], spec["texts"], strict=True))
    assert len(said) == 3 * network.depth - 3
    accounted(said.pop("activities"), [])
    accounted(said.pop("first target"), [f"{at(top, 'ĥ')} = {at(top, 'h')} − α∂L/∂{at(top, 'h')}."])
    missed = {}
    for l in range(top - 1, 0, -1):
        B, c = (rule.state_dict()[f"{name}{l + 1}"].numpy() for name in "Bc")
        exact = np.linalg.solve(W[l + 1], inverses[activation](DTP) - b[l + 1])
        found = sigma(B @ h[l + 1] + c)
        TP, DTP = sigma(B @ TP + c), h[l] + sigma(B @ DTP + c) - found
        t = 3 * (top - l) - 1
        points[l] = {"h": (h[l], h[l], 0), "g(h)": (found, found, t), "TP": (found, TP, t + 1),
                     "DTP": (h[l], DTP, t + 2), "exact": (exact, exact, t + 2)}  # fmt: skip
        missed[l] = [np.linalg.norm(v) for v in (found - h[l], TP - exact, DTP - exact)]
        g, above, aimed, here = at(l + 1, "g"), at(l + 1, "h"), at(l + 1, "ĥ"), at(l, "h")
        accounted(said.pop(f"inverse in layer {l}"),
                  [f"{g}({above}) should be {here}.", f"misses it by {missed[l][0]:.2f}."])  # fmt: skip
        accounted(said.pop(f"TP in layer {l}"), [f"TP takes {g}({'its own ' * (l < top - 1)}{aimed}) for the target"])
        accounted(said.pop(f"DTP in layer {l}"), [f"arrow from {g}({above}) to {g}({aimed})",
                  f", {np.linalg.norm(DTP - h[l]):.2f} long", f"sets it at {here}."])  # fmt: skip
    plain = TargetPropagation(copy.deepcopy(network), alpha=0.4, noise=0.1)
    plain.load_state_dict(rule.state_dict())
    losses = [after_a_step(one, x, y, rate)[1] for one in (plain, rule)]
    parts = [f"loss was {loss:.2f};", f"now {losses[0]:.2f} with TP and {losses[1]:.2f} with DTP."]
    accounted(said.pop("one step of learning"), parts)
    assert not said
    *planes, table = spec["panels"]
    assert [panel["title"] for panel in planes] == [f"Layer {l}" for l in points]
    for panel, (l, there) in zip(planes, points.items(), strict=True):
        assert at(l, "h") in panel["xlabel"] and at(l, "h") in panel["ylabel"]
        assert {a["name"]: a["since"] for a in panel["arrows"]} == {name: t for name, (*_, t) in there.items()}
        largest = np.abs([p for start, end, _ in there.values() for p in (start, end, end - start)]).max()
        for arrow in panel["arrows"]:
            start, end, _ = there[arrow["name"]]
            for origin, xy in zip(arrow["from"] or np.zeros((len(arrow["xy"]), 2)), arrow["xy"], strict=True):
                np.testing.assert_allclose([origin, xy], [start, end - start], rtol=0, atol=5.1e-4 * largest)
    for step, rows in enumerate(table["rows"]):
        for row, (l, distances) in zip(rows, missed.items(), strict=True):
            known = step - points[l]["g(h)"][2]
            assert row == [str(l), *(f"{d:.2f}" * (known >= k) for d, k in zip(distances, (0, 2, 2), strict=True))]


def voltages(rule: Microcircuits, x: torch.Tensor, y: int | None = None) -> dict[tuple[str, int], np.ndarray]:
    """The steady state by its equations."""
    (W, b), L, lam, v = arrays(rule.network), rule.network.depth, rule.lam, {}
    v["r", 0] = x[0].numpy()
    for l in W:
        v["v̂", l] = W[l] @ v["r", l - 1] + b[l]
        v["r", l] = logistic(v["v̂", l])
    aims = np.where(np.arange(len(b[L])) == y, rule.targets[1], rule.targets[0])
    v["u*", L] = np.log(aims / (1 - aims))
    v["soma", L] = v["v̂", L] if y is None else (1 - lam) * v["v̂", L] + lam * v["u*", L]
    for k in range(L - 1, 0, -1):
        W_IP, c, W_PI, down = (w.detach().numpy() for w in (*rule.interneuron_weights(k), rule.feedback(k + 1)))
        v["φ(u)", k + 1] = logistic(v["soma", k + 1])
        v["predicted", k] = W_IP @ v["r", k] + c
        v["interneuron", k] = (1 - lam) * v["predicted", k] + lam * v["soma", k + 1]
        v["top_down", k] = down @ v["φ(u)", k + 1]
        v["lateral", k] = W_PI @ logistic(v["interneuron", k])
        v["apical", k] = v["top_down", k] + v["lateral", k]
        v["apical", k][np.abs(v["apical", k]) < 1e-14] = 0
        v["rest", k] = v["v̂", k] * (1 - lam if rule.mixing == "convex" else 1)
        v["soma", k] = v["rest", k] + lam * v["apical", k]
    return v


def errors_of(rule: Microcircuits, x: torch.Tensor, y: torch.Tensor) -> tuple[dict, dict, dict]:
    """What moves each bias, by the rule and by autograd of its objective, and the angles between them, in words."""
    layers, copied = range(1, rule.network.depth + 1), copy.deepcopy(rule)
    copied.assign_gradients(x, y)
    own = {l: -copied.network.bias(l).grad.numpy() for l in layers}
    loss = rule.objective(rule.network(x), y)
    true = {l: -torch.autograd.grad(loss, rule.network.bias(l), retain_graph=True)[0].numpy() for l in layers}
    norms = {l: np.linalg.norm(own[l]) * np.linalg.norm(true[l]) for l in layers}
    degrees = {l: np.degrees(np.arccos(own[l] @ true[l] / norms[l])) for l in layers}
    return own, true, {l: f"{a:.0f}°" if a >= 10 else f"{a:.2g}°" for l, a in degrees.items()}


@pytest.mark.parametrize(
    ("sizes", "label", "options"),
    [((4, 3, 3, 2), 1, {"feedback": "symmetric", "lam": 0.02}), ((2, 4, 3), 0, {"lam": 0.3}),
     ((4, 3, 3, 2), 0, {"lateral": "learned", "lam": 0.2}), ((3, 3, 2, 4, 3), 2, {"lam": 0.2, "mixing": "convex"})],
)  # fmt: skip
def test_walk_of_microcircuits(sizes, label, options):
    network = biased(PyramidalNetwork(sizes, width=2.0, seed=4, dtype=torch.float64), 7)
    rule, x, y = Microcircuits(network, seed=3, **options), inputs(sizes[0]).abs(), torch.tensor([label])
    quiet, taught, (own, true, angles) = voltages(rule, x), voltages(rule, x, label), errors_of(rule, x, y)
    (W, b), names, lam, L, hidden = arrays(network), names_of(sizes), rule.lam, len(sizes) - 1, range(1, len(sizes) - 1)
    spec = microcircuit_walk(rule, x, y).spec
    diagram, apical, error, table = spec["panels"]
    silent = not any(quiet["apical", k].any() for k in hidden)
    scales = np.array([node["scale"] for node in diagram["nodes"]])
    rounding = [5.1e-7 * np.abs(np.array(diagram["values"])[:, scales == scale]).max() for scale in scales]
    known, since, moved, step = dict.fromkeys([node["name"] for node in diagram["nodes"]], 0.0), {}, {}, 0

    def learns(kind: str, layer: int, values: np.ndarray) -> None:
        prefix = {"apical": "apical dendrite ", "interneuron": "interneuron i"}.get(kind, f"{kind} ")
        for name, value in zip(names[layer + (kind == "interneuron")], values, strict=True):
            since.setdefault(prefix + name, step)
            known[prefix + name] = value

    def settles(k: int, state: dict) -> None:
        learns("soma", k, state["soma", k])
        change = logistic(state["soma", k]) - logistic(state["rest", k])
        moved[k] = own[k] if state is taught else change / lam ** (L - k + 1)

    def holds(label: str, parts: list[str], of: list[str], words: list, values: Iterable) -> None:
        nonlocal step
        assert spec["steps"][step] == label
        accounted(spec["texts"][step], parts)
        rows_account(table["rows"][step], of, words, values)
        assert (np.abs(np.array(diagram["values"][step]) - list(known.values())) <= rounding).all(), label
        drawn(apical, step, [[known[f"apical dendrite {name}"] for name in names[k]] for k in hidden])
        drawn(error, step, (moved.get(l, np.zeros(n)) for l, n in enumerate(sizes) if l))
        step += 1

    def cancelled(state: dict, *circuits: int) -> tuple[list[str], list, list]:
        kinds = ("top_down", "lateral", "apical")
        columns = np.concatenate([side(*(state[kind, k] for kind in kinds)) for k in circuits])
        words = [(f"{d:.4f} + ".replace("-", "−"), f"v_A = {two(a)}") for d, _, a in columns]
        return [name for k in circuits for name in names[k]], words, columns[:, 1:2]

    def mixed(v: np.ndarray, other: np.ndarray) -> tuple[list, np.ndarray]:
        words = [(f"{1 - lam:g}·", f" + {lam:g}·", f"moves by {two(d)}") for d in lam * (other - v)]
        return words, side(v, other)

    learns("input", 0, quiet["r", 0])
    holds("input", [f"right class is {names[L][label]}."], names[0], [("r = ",)] * sizes[0], x.T.numpy())
    for l in W:
        learns("soma", l, quiet["v̂", l])
        parts = [f"{at(l, 'v̂')} = {at(l, 'W')}{at(l - 1, 'r')} + {at(l, 'b')}:"]
        words = [[f"v̂ = {fixed(v)}"] for v in quiet["v̂", l]]
        if l < L:
            parts.append(f"rate is {at(l, 'r')} = φ(v̂)")
            words = [[f"v̂ = {fixed(v)}, r = {fixed(r)}"] for v, r in side(quiet["v̂", l], quiet["r", l])]
        holds(f"up to layer {l}" if l < L else "up to the output", parts, names[l], words,
              sums(W[l], quiet["r", l - 1], b[l]))  # fmt: skip
    words, values = [], []
    for k in hidden:
        W_IP, c, _ = (w.detach().numpy() for w in rule.interneuron_weights(k))
        learns("interneuron", k, quiet["predicted", k])
        pairs = side(quiet["predicted", k], quiet["v̂", k + 1])
        words += [(f"v̂ = {fixed(p)}; the cell has {fixed(a)}",) for p, a in pairs]
        values += sums(W_IP, quiet["r", k], c)
    inter = {k: [f"i{name}" for name in names[k + 1]] for k in hidden}
    missed = f"miss by up to {most(*(quiet['predicted', k] - quiet['v̂', k + 1] for k in hidden))}."
    holds("interneurons predict", ["They are right." if rule.lateral == "self_predicting" else missed],
          [name for k in hidden for name in inter[k]], words, values)  # fmt: skip
    for k in reversed(hidden):
        down, v, left = rule.feedback(k + 1).detach().numpy(), quiet["top_down", k], quiet["apical", k]
        learns("apical", k, v)
        parts = [f"W_down φ({at(k + 1, 'u')})", f"dendrites of layer {k}.", f"voltages of up to {most(v)}."]
        holds(f"top-down input to layer {k}", parts, names[k], [(f"| {two(a)}",) for a in v],
              sums(down, quiet["φ(u)", k + 1], 0 * v))  # fmt: skip
        learns("interneuron", k, quiet["interneuron", k])
        learns("apical", k, left)
        settles(k, quiet)
        parts = [f"v_A is up to {most(left)}, and moves somata"] if left.any() else ["It cancels", "v_A = 0."]
        holds(f"lateral input to layer {k}", parts, *cancelled(quiet, k))
    before = most(*(quiet["apical", k] for k in hidden))
    parts = ["All apical dendrites are silent" if silent else f"not silent, up to {before}:"]
    holds("no target", parts, *cancelled(quiet, *hidden))
    learns("target", L, taught["u*", L])
    learns("soma", L, taught["soma", L])
    moved[L] = own[L]
    parts = [f"{at(L, 'u')} = (1 − λ)v̂ + λu*, λ = {lam:g}:",
             f"nudges the output by up to {most(taught['soma', L] - quiet['v̂', L])}."]  # fmt: skip
    holds("the target nudges the output", parts, names[L], *mixed(taught["v̂", L], taught["u*", L]))
    for k in reversed(hidden):
        own_v, above, v, left = taught["predicted", k], taught["soma", k + 1], taught["apical", k], quiet["apical", k]
        learns("interneuron", k, taught["interneuron", k])
        parts = [f"u = (1 − λ)v̂ + λ{at(k + 1, 'u')}:", "output cells" if k + 1 == L else "cells above",
                 f"by up to {most(taught['interneuron', k] - own_v)}."]  # fmt: skip
        holds(f"interneurons of layer {k}", parts, inter[k], *mixed(own_v, above))
        learns("apical", k, v)
        change = [f"changed it by up to {most(v - left)} only"] if left.any() else []
        holds(f"apical voltage of layer {k}", [f"v_A is up to {most(v)}.", *change], *cancelled(taught, k))
        settles(k, taught)
        what = "the error" if rule.top_down == "symmetric" and not left.any() else "v_A"
        parts = [f"{at(k, 'u')} = v̂ + λv_A: {what} moves", f"by up to {most(lam * v)}."]
        words = [(f" + {lam:g}·", f"moves by {two(lam * a)}") for a in v]
        holds(f"somata of layer {k}", parts, names[k], words, side(taught["rest", k], v))
    parts = [f"{angles[L]} in the output, ", *(f"{angles[k]} in layer {k}" for k in hidden)]
    if not silent:
        parts.append(f"v_A is up to {most(*(taught['apical', k] for k in hidden))}, but was up to {before} without")
    powers = {l: f" / λ{str(L - l + 1).translate(RAISED) if l < L else ''} = " for l in W}
    words = [(f"{powers[l]}{two(e)}", f"backprop: {two(t)}") for l in W for e, t in side(own[l], true[l])]
    holds("plasticity", parts, [name for l in W for name in names[l]], words, [()] * len(words))
    assert step == len(spec["steps"]) and {node["name"]: node["since"] for node in diagram["nodes"]} == since


@pytest.mark.parametrize("better", [("mlp", "fa"), ("fa", "mlp")])
def test_walk_through_trainings(better):
    names, frame = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}, test_walks.trainings()
    swap = dict(zip(better, ("mlp", "fa"), strict=True))
    frame.loc[frame.dataset == "fashion", "name"] = frame.name[frame.dataset == "fashion"].map(swap)
    spec = training_walk(frame, names).spec
    rows = list(frame.itertuples())
    for step, examples in enumerate((0, 1000, 55000)):
        assert spec["steps"][step] == f"{examples:,} examples"
        parts = []
        for panel, (dataset, title) in zip(spec["panels"], names.items(), strict=True):
            one = [r for r in rows if r.dataset == dataset and r.examples == examples]
            errors = {short: 100 - 100 * np.mean([r.value for r in one if r.name == name])
                      for name, short in (("mlp", "Backprop"), ("fa", "FA"))}  # fmt: skip
            assert panel["labels"] == list(errors) and panel["ylabel"] == "validation error (%)"
            drawn(panel, step, [list(errors.values())])
            best = min(errors, key=errors.__getitem__)
            parts += [f"{title}: {best}, {errors[best]:.1f} %"] if step else []
        accounted(spec["texts"][step], parts)


@pytest.mark.browser
@pytest.mark.parametrize("constants", [{}, {"g_a": 0.05, "plateau_sd": 1.0}])
def test_phase_stepper(show, constants):
    one = test_phases.rule(**test_phases.SHORT, phase_mean=0, **constants)
    widget, outcome = test_phases.stepper({"one": one}, neurons=4), test_phases.oracle(one, 3)
    trace, answer, page = outcome.trace, outcome.scores.argmax(), show(widget)
    right = "which is right" if answer == 6 else "but the label is 6"
    apical = "(g_a = 0.05)" if constants else "g_a = 0: it does not"
    for k in widget.data["neurons"]:
        page.locator("select.bp-neuron").select_option(str(k))
        alpha, after, E = outcome.alpha_forward[0][k], outcome.alpha_target[0][k], outcome.E[0][k]
        begins = {
            0: (["a 4 and a 5 came before", "first 12 ms are left out"], []),
            12: (["of the phase, 8 ms,", apical], []),
            20: ([f"Neuron {k}: αᶠ = ", f"answers {answer}, {right}."], [alpha]),
            21: (["output 6 towards 8 and all others towards −8.", "first 12 ms are not averaged"], []),
            33: (["for 8 ms."], []),
            41: ([f"Neuron {k}: αᵗ − αᶠ = "], [after - alpha]),
            42: ([f"Neuron {k}: αᵗ − αᶠ = ", ", E = ", "grow" if E < 0 else "shrink"], [after - alpha, E]),
        }
        for step in range(test_phases.LAST + 1) if k == widget.neuron else begins:
            page.locator(".bp-slider").fill(str(step))
            if step in begins:
                parts, values = begins[step]
            else:
                t = step - (step > test_phases.FORWARD)
                spikes = [int(counts[t].sum()) for counts in (trace.spikes[0], trace.spikes[1], trace.spikes[-1])]
                spiking = " spikes" * bool(trace.spikes[1][t, k])
                parts = ["Spikes: {} of the input, {} of the 40 hidden neurons, {} of the 10 outputs.".format(*spikes),
                         f"Neuron {k}{spiking}: basal ", ", soma ", ", apical "]  # fmt: skip
                values = [v[0][t, k] for v in (trace.basal, trace.soma, trace.apical)]
            label = f"Step {step + 1} of {test_phases.LAST + 1} · {test_phases.label_of(step)} — "
            accounted(test_widgets.words(page), [label, *parts], values)
        rows = [" ".join(row.locator("th, td").all_text_contents()) for row in page.locator("tbody tr").all()]
        shown = {"αᶠ": alpha, "αᵗ": after, "αᵗ − αᶠ": after - alpha, "E": E, "output loss": outcome.output_loss}
        for row, (name, value) in zip(rows, shown.items(), strict=False):
            accounted(row, [name if name == "output loss" else f"{name}, neuron {k}"], [value])
        assert rows[5] == f"answer (label: 6) {answer} {'✓' if answer == 6 else '✗'}" and len(rows) == 6
    k, plain = widget.neuron, re.sub("<[^>]+>", "", widget._repr_html_().split("noscript>")[1])
    parts = ["a 6, in", "of 784 inputs and 40 neurons", "4 of them", f"neuron {k}:", f"answer {answer}, output loss",
             "forward phase of 20 ms, plateau αf", "target phase of 20 ms, plateau αt"]  # fmt: skip
    accounted(plain, parts, [outcome.alpha_forward[0][k], outcome.alpha_target[0][k], outcome.output_loss])
