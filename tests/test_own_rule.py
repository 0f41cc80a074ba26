"""A rule in a reader's own file, in a folder that has nothing else: trained, measured, drawn and run by papermill."""

import itertools
import json
import subprocess
import sys

import nbformat
import pytest
import torch
from conftest import ROOT

from bioplaus_lite import CNN, MLP, fit, load
from bioplaus_lite.measures import MEASURES, Probe, measure
from bioplaus_lite.rules import RULES, LearningRule, Synapse, card_of, make_rule, register
from bioplaus_lite.runs.train import Measures

PAGE = ROOT / "book/reference/own_rule.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder but for the rule of the page "Write your own rule", as the page says to put it there."""
    cells = [cell.source for cell in nbformat.read(PAGE, 4).cells if cell.cell_type == "code"]
    rule = next(source for source in cells if "class NodePerturbation" in source)
    lines = [
        "import torch", "import torch.nn.functional as F", "from bioplaus_lite import MLP",
        "from bioplaus_lite.rules import LearningRule, Synapse, Trace, register",
    ]  # fmt: skip
    imports = "\n".join(lines)
    text = f"{imports}\n\n{rule}\n"
    assert text.count("\n") < 60
    path = tmp_path_factory.mktemp("empty") / "my_rules.py"
    path.write_text(text)
    return path.parent


def run(folder, code):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_trained_measured_and_drawn(folder):
    said = run(folder, """
import json, torch
import matplotlib
matplotlib.use("agg")
from bioplaus_lite import MLP, fit, load, make_rule, plots
from bioplaus_lite.measures import MEASURES, Probe
from bioplaus_lite.runs.train import Measures
mnist = load("mnist")
rule = make_rule("my_rules:NodePerturbation", MLP((784, 30, 10)))
x, y = mnist.x_test[:300], mnist.y_test[:300]
measures = Measures(rule, x, y, (x, y))
measures(rule)
history = fit(rule, (mnist.x_train[:2000], mnist.y_train[:2000]), (x, y), epochs=2, batch_size=50,
              optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-3), measure=measures)
axes = plots.learning_curves({"my_rules:NodePerturbation": history})
style = plots.style_of("my_rules:NodePerturbation")
last = history.frame[(history.frame.split == "rule") & (history.frame.examples == 4000)]
print(json.dumps({"accuracy": history.last("accuracy"), "style": style, "measured": sorted(last.metric)}))
""")
    told = json.loads(said)
    assert told["accuracy"] > 0.5
    assert told["style"] == {"color": "#E69F00", "linestyle": ":", "label": "Node perturbation"}
    always = [name for name, known in MEASURES.items() if known.always]
    by_layer = [f"{name}_{l}" for name in always for l in (1, 2) if name[:5] not in ("error", "inver") or l == 1]
    norms = [f"{name}_{l}" for name in ("weight_norm", "update_norm", "gradient_change") for l in (1, 2)]
    assert told["measured"] == sorted([*by_layer, *norms])


def test_papermill_runs_it_from_there(folder):
    command = [sys.executable, "-m", "papermill", str(ROOT / "book/trainings/train.ipynb"), "out.ipynb",
               "-p", "rule", "my_rules:NodePerturbation", "-y", "{options: {sigma: 0.001}, network: {type: MLP, "
               "hidden: [20]}, optimizer: {name: Adam, lr: 0.001}}", "-p", "epochs", "1", "-p", "examples", "2000",
               "-k", "python3", "--no-progress-bar"]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [o for cell in nbformat.read(folder / "out.ipynb", 4).cells for o in cell.get("outputs", [])]
    said = [o["data"]["text/plain"] for o in outputs if o.output_type == "execute_result"]
    assert said and said[-1].startswith("test error")
    assert any("NodePerturbation on MLP 784-20-10" in o.get("text", "") for o in outputs)


@pytest.fixture
def clean(monkeypatch):
    """What a test imports and registers is forgotten at its end."""
    known, path, modules = dict(RULES), list(sys.path), set(sys.modules)
    yield
    RULES.clear()
    RULES.update(known)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name in ("my_rules", "broken_rules", "other"):
            del sys.modules[name]


def test_a_module_that_gives_no_rule_says_why(folder, monkeypatch, clean):
    monkeypatch.chdir(folder)
    (folder / "broken_rules.py").write_text("import nothing_of_this_name\nNumber = 3\n")
    (folder / "other.py").write_text("Number = 3\n")
    for name, said in [
        ("nowhere:Mine", "cannot be imported: No module named 'nowhere'"),
        ("my_rules:Mine", "has no attribute 'Mine'"),
        ("broken_rules:Mine", "No module named 'nothing_of_this_name'"),
        ("other:Number", "is not a subclass of LearningRule"),
    ]:
        with pytest.raises(ValueError, match=said):
            card_of(name)


class Silent(LearningRule):
    """Says nothing but how its output layer learns: no feedback, no errors below."""

    def synapses(self, trace, error, y):
        top = self.network.depth
        yield Synapse(f"W{top}", error, trace.h[-2], bias=f"b{top}")


def test_measures_of_what_a_rule_does_not_have_are_null_or_left_out():
    mnist = load("mnist")
    x, y = mnist.x_test[:100], mnist.y_test[:100]
    rule = Silent(MLP((784, 20, 10)))
    probe = Probe(rule, x, y)
    assert MEASURES["error_angle"](probe) == {"error_angle_1": None}
    assert MEASURES["inverse_angle"](probe) == {"inverse_angle_1": None}
    assert MEASURES["update_angle"](probe) == {"update_angle_2": pytest.approx(0, abs=1e-2)}
    recorded = Measures(rule, x, y, (x, y))(rule)
    assert "update_angle_2" in recorded and not any("error_angle" in name for name in recorded)
    with pytest.raises(NotImplementedError, match="Silent sends nothing down"):
        rule.feedback(2)
    before = rule.network.W1.detach().clone()
    fit(rule, (x, y), epochs=2)
    assert torch.equal(before, rule.network.W1)  # no synapse names it
    assert rule.network.W1.grad is None


class Odd(LearningRule):
    """One weight named twice, a decay a unit, a total, and a rescaled gradient."""

    def synapses(self, trace, error, y):
        yield Synapse("W2", error, trace.h[1], bias="b2", decay=torch.tensor([[0.0], [1.0], [2.0]]).double())
        yield Synapse("W2", error, trace.h[1], bias="b2")
        yield Synapse("W1", error, trace.h[0], total=torch.full((4, 5), 3.0).double(), decay=0.5)

    def finish(self, name, gradient):
        if name == "W1":
            gradient.div_(2)


def test_contributions_add_decays_come_last_and_finish_after_them():
    net = MLP((5, 4, 3), dtype=torch.float64)
    rule = Odd(net)
    x, y = torch.rand(6, 5, dtype=torch.float64), torch.arange(6) % 3
    rule.assign_gradients(x, y)
    h = [a.detach() for a in net.activities(x)]
    error = (torch.softmax(h[-1], 1) - torch.nn.functional.one_hot(y, 3)) / 6
    unit = torch.tensor([[0.0], [1.0], [2.0]])
    torch.testing.assert_close(net.W2.grad, 2 * error.T @ h[1] + unit * net.W2.detach())
    torch.testing.assert_close(net.b2.grad, 2 * error.sum(0))
    torch.testing.assert_close(net.W1.grad, (3 + 0.5 * net.W1.detach()) / 2)
    assert net.b1.grad is None
    assert rule.errors(x, y).keys() == {1}, "several signals meet at W2: none of them is its error"


class Listed(LearningRule):
    """Its synapses are those of a list, made of ``h`` and the error; ``B2`` and a generator are its own."""

    def __init__(self, network, listed):
        super().__init__(network)
        self.B2 = torch.nn.Parameter(network.W2.detach().transpose(0, 1) * 3)
        self.listed, self.generator = listed, torch.Generator().manual_seed(0)

    def synapses(self, trace, error, y):
        torch.rand(1, generator=self.generator)
        yield from self.listed(trace.h, error)


def problem_of(network, batch=6):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(batch, network.sizes[0], generator=g, dtype=torch.float64)
    return x, torch.arange(batch) % network.sizes[-1]


@pytest.mark.parametrize("decay", [0.5, torch.tensor([1.0, 0.0, 2.0, 0.5]).double()], ids=["number", "one a unit"])
@pytest.mark.parametrize("kinds", list(itertools.permutations(["outer", "total", "shared"], 2)), ids=" ".join)
@pytest.mark.parametrize("weight", ["W1", "B2"])
def test_two_synapses_of_one_weight_add_whatever_their_kind_and_order(weight, kinds, decay):
    net = MLP((3, 4, 3), dtype=torch.float64)  # W1 and B2 have the shape of W2ᵀ
    given = torch.arange(12).view(4, 3).double()

    def listed(h, error):
        kind_of = {"outer": {}, "total": {"total": given}, "shared": {"total": "W2"}}
        for kind, factor in zip(kinds, (1, 2), strict=True):
            yield Synapse(weight, h[1], error, decay=factor * decay, **kind_of[kind])
        for factor in (1, 3):  # what shares their sum waits for both, and not for their decay
            yield Synapse("W2", factor * error, h[1], decay=0.7)

    rule = Listed(net, listed)
    x, y = problem_of(net)
    rule.assign_gradients(x, y)
    h = [a.detach() for a in net.activities(x)]
    error = (torch.softmax(h[-1], 1) - torch.nn.functional.one_hot(y, 3)) / 6
    outer = h[1].T @ error
    sums = {"outer": outer, "total": given, "shared": 4 * outer}
    parameter = (rule.B2 if weight == "B2" else net.W1).detach()
    decayed = 3 * torch.as_tensor(decay).view(-1, 1) * parameter
    found = rule.B2.grad if weight == "B2" else net.W1.grad
    torch.testing.assert_close(found, sum(sums[kind] for kind in kinds) + decayed)
    torch.testing.assert_close(net.W2.grad, 4 * outer.T + 1.4 * net.W2.detach())


def small_cnn():
    return CNN((1, 8, 8), (4,), 3, kernel=3, dtype=torch.float64)


def small_mlp():
    return MLP((5, 4, 3), dtype=torch.float64)


@pytest.mark.parametrize("make", [small_mlp, small_cnn])
def test_a_decay_is_one_number_or_one_a_unit(make):
    net = make()
    x, y = problem_of(net)
    w, units = net.W1.detach(), torch.tensor([0.0, 1.0, 2.0, 3.0]).double()

    def decayed(decay):
        def listed(h, error):
            return [Synapse("W1", error, h[0], total=torch.zeros_like(w), decay=decay)]

        return Listed(net, listed).gradients(x, y)["W1"]

    expected = torch.stack([k * row for k, row in enumerate(w)])
    for decay in (units, units.view(4, 1), units.view(4, 1, 1, 1)):
        torch.testing.assert_close(decayed(decay), expected)
    for decay in (2.0, torch.tensor(2.0).double(), torch.full((1, 1), 2.0).double()):
        torch.testing.assert_close(decayed(decay), 2 * w)
    with pytest.raises(ValueError, match="synapse W1: a decay is 1 number or 4, one a unit, not 3"):
        decayed(units[:3])


MISFITS = {  # the synapse that is named, the network, and what does not meet there
    "post": ("W2", small_mlp, lambda h, e: [Synapse("W2", e[:, :2], h[1])]),
    "pre": ("W2", small_mlp, lambda h, e: [Synapse("W2", e, h[1][:, :1])]),
    "post as long as pre": ("W2", small_mlp, lambda h, e: [Synapse("W2", h[1], e)]),
    "examples": ("W2", small_mlp, lambda h, e: [Synapse("W2", e[:4], h[1])]),
    "total": ("W2", small_mlp, lambda h, e: [Synapse("W2", e, h[1], total=torch.ones(1, 4).double())]),
    "bias": ("b2", small_mlp, lambda h, e: [Synapse("W2", e[:, :1], h[1], "b2", total=torch.ones(3, 4).double())]),
    "shared": ("B2", small_mlp, lambda h, e: [Synapse("W2", e, h[1]), Synapse("B2", h[1], e, total="W2")]),
    "post, maps": ("W1", small_cnn, lambda h, e: [Synapse("W1", h[1][:, :3], h[0])]),
    "pre, maps": ("W1", small_cnn, lambda h, e: [Synapse("W1", h[1], h[0].view(-1, 2, 4, 8)[:, :, :, :3])]),
    "bias, maps": ("b1", small_cnn, lambda h, e: [
        Synapse("W1", h[1][:, :3], h[0], "b1", total=torch.zeros(4, 1, 3, 3).double())]),
    "bias of rows, maps": ("b1", small_cnn, lambda h, e: [
        Synapse("W1", e, h[0], "b1", total=torch.zeros(4, 1, 3, 3).double())]),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_signals_that_do_not_meet_are_refused_and_leave_nothing(misfit):
    named, make, listed = MISFITS[misfit]
    net = make()
    rule, (x, y) = Listed(net, listed), problem_of(net)
    if misfit == "shared":
        rule.B2 = torch.nn.Parameter(torch.zeros(1, 3).double())  # PyTorch would spread it
    before = {n: p.detach().clone() for n, p in rule.named_parameters()}
    for p in rule.parameters():
        p.grad = torch.ones_like(p)
    state = rule.generator.get_state()
    with pytest.raises((ValueError, RuntimeError), match=f"^synapse {named}: "):
        rule.assign_gradients(x, y)
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in rule.named_parameters())
    assert torch.equal(rule.generator.get_state(), state)


@pytest.mark.parametrize("order", [1, -1])
def test_a_sum_of_a_sum_is_refused_in_any_order(order):
    net = MLP((3, 3, 3), dtype=torch.float64)
    def chained(h, e):
        two = [Synapse("W2", e, h[1], total="W1"), Synapse("B2", h[1], e, total="W2")]
        return [Synapse("W1", h[1], h[0]), *two[::order]]

    with pytest.raises(ValueError, match=r"^synapse B2: shares the sum of W2, which shares that of W1; name weights"):
        Listed(net, chained).assign_gradients(*problem_of(net))


def test_weights_that_do_not_exist_are_named():
    class Slip(LearningRule):
        def synapses(self, trace, error, y):
            yield Synapse("W9", error, trace.h[1])

    with pytest.raises(ValueError, match="a synapse names the weights 'W9'; there are W1, b1, W2, b2"):
        Slip(MLP((5, 4, 3))).assign_gradients(torch.rand(2, 5), torch.zeros(2, dtype=torch.int64))


def test_cards_are_checked_and_names_belong_to_one_class():
    with pytest.raises(ValueError, match="unknown colour 'pink'; choose one of blue"):
        register("mine", label="Mine", look=("pink", "-"))
    with pytest.raises(ValueError, match="unknown dash '~'"):
        register("mine", label="Mine", look=("blue", "~"))
    with pytest.raises(ValueError, match=r"the name 'fa' is taken by bioplaus_lite\.rules\.feedback_alignment"):
        register("fa", label="Mine")(Silent)
    try:
        for _ in range(2):  # a notebook cell that is run again
            register("silent", label="Silent")(Silent)
        assert make_rule("silent", MLP((5, 4, 3))).network.depth == 2
        assert list(RULES)[-1] == "silent"
    finally:
        del RULES["silent"]
    with pytest.raises(ValueError, match="the measure 'snr' is taken"):
        measure("snr", unit="none")(lambda probe: {})


def made_in(module, name="Silent"):
    return type(name, (Silent,), {"__module__": module, "__qualname__": name})


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        (("__main__",), ("__main__",), False),  # a cell that is run again
        (("__main__",), ("my_rules",), False),  # the file that a cell was copied to
        (("my_rules",), ("__main__",), False),
        (("my_rules",), ("other",), True),
        (("__main__",), ("__main__", "Loud"), True),
        (("bioplaus_lite.rules.mine",), ("__main__",), True),  # a cell may not take the place of what the book uses
    ],
)
def test_a_class_made_again_keeps_its_name_and_another_is_refused(clean, first, second, taken):
    put = register("silent", label="Silent")
    old, new = put(made_in(*first)), made_in(*second)
    if taken:
        with pytest.raises(ValueError, match=rf"the name 'silent' is taken by {first[0]}\.Silent"):
            put(new)
    else:
        put(new)
    assert RULES["silent"].rule is (old if taken else new)


def test_a_class_with_several_cards_has_all_of_its_options_under_its_own_name():
    name = "bioplaus_lite.rules.feedback_alignment:SignSymmetry"
    assert len([card for card in RULES.values() if card.rule.__name__ == "SignSymmetry"]) == 3
    assert card_of(name).takes == ("magnitudes", "seed")
    for magnitudes in ("uniform", "fixed", "redrawn"):
        assert make_rule(name, MLP((5, 4, 3)), magnitudes=magnitudes).magnitudes == magnitudes


def test_the_page_that_trains_takes_a_rule_that_does_not_name_every_layer(monkeypatch):
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", plt.close)
    settings = {
        "rule": f"{__name__}:Silent", "network": {"type": "MLP", "hidden": [6, 5]}, "epochs": 1, "examples": 200,
        "optimizer": {"name": "SGD", "lr": 0.1}, "measures": ["feedback_angle"],
    }  # fmt: skip
    cells = [c for c in nbformat.read(ROOT / "book/trainings/train.ipynb", 4).cells if c.cell_type == "code"]
    page = {}
    with plt.rc_context():
        for cell in cells:
            exec(cell.source, page)
            if "parameters" in cell.metadata.get("tags", []):
                page |= settings
                parameters = {name: value for name, value in page.items() if not name.startswith("__")}
    monkeypatch.setenv("BIOPLAUS_RUN", json.dumps(parameters))
    (record,) = (json.loads(v) for k, v in page["outcome"]._repr_mimebundle_().items() if k != "text/plain")
    measured = record["metrics"]["rule"]
    assert measured["update_angle_3"] == pytest.approx([0, 0], abs=0.1)
    assert not {"update_angle_1", "update_angle_2", "snr_1", "error_angle_1", "feedback_angle_2"} & measured.keys()
    assert measured["update_norm_1"] == [None, 0]
    assert list(record["fingerprint"]["gradients"][0]) == ["network.W3", "network.b3"]
