"""A rule in a reader's own file, in a folder that has nothing else: trained, measured, drawn and run by papermill."""

import json
import subprocess
import sys

import nbformat
import pytest
import torch
from conftest import ROOT

from bioplaus_lite import MLP, fit, load
from bioplaus_lite.measures import MEASURES, Probe, measure
from bioplaus_lite.rules import RULES, LearningRule, Synapse, card_of, make_rule, register
from bioplaus_lite.runs.recipe import Measures

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
from bioplaus_lite.runs.recipe import Measures
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
