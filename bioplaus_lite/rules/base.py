"""What every learning rule is: a network, and for each synapse the two signals that meet there.

A rule fills ``.grad`` and any optimiser steps. ``loss.backward()`` in an ordinary PyTorch loop becomes
``rule.assign_gradients(x, y)``; everything else in the loop stays.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bioplaus_lite import checks
from bioplaus_lite.networks import Dense, Layer, Network

__all__ = ["Held", "LearningRule", "States", "Synapse", "Trace", "cross_entropy_and_error"]

_GENERATOR = type(torch.Generator())  # comparing types takes a tenth of the time of torch's own isinstance
_OWN = Layer(Dense(), "linear")  # how weights act that are a rule's own


def cross_entropy_and_error(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean cross-entropy of softmax scores, and its derivative by the scores.

    .. math:: \mathcal L = -\tfrac1B \sum_b \log \mathrm{softmax}(s_b)_{y_b}, \qquad
              \delta_L = \tfrac1B (\mathrm{softmax}(s) - \mathrm{onehot}(y))

    Args:
        scores: ``(batch, classes)``.
        labels: ``(batch,)``, int64, each in ``0 … classes-1``.

    Returns:
        The loss, a scalar, and the error, shape ``(batch, classes)``.

    Raises:
        TypeError: ``labels`` is not a tensor.
        ValueError: ``labels`` has another shape or dtype, or holds a value outside the classes.
    """
    batch, classes = scores.shape
    checks.labels(labels, batch, classes)
    log_p = torch.log_softmax(scores, 1)
    loss = F.nll_loss(log_p, labels)
    error = log_p.exp().scatter_(1, labels.unsqueeze(1), -1.0, reduce="add")
    return loss, error.div_(batch)


def _check_total(total: Tensor, out: Tensor) -> None:
    if total.shape != out.shape:  # or PyTorch would spread it, or give ``out`` another shape
        raise ValueError(f"its total has the shape {tuple(total.shape)}, the weights {tuple(out.shape)}")


def _copy(total: Tensor, out: Tensor) -> None:
    _check_total(total, out)
    out.copy_(total)


def _plus(total: Tensor, weight: Tensor, decay: float, out: Tensor) -> None:
    _check_total(total, out)
    torch.add(total, weight, alpha=decay, out=out)


class Trace(NamedTuple):
    """The passes upward, which do not depend on the answer.

    ``h``: ``h_0 … h_L`` of the clean pass, a row an example. ``more``: what else a rule sees on its way up, by name: a
    noisy pass, a free phase, voltages.
    """

    h: list[Tensor]
    more: dict[str, Any]


class Synapse(NamedTuple):
    r"""The two signals that meet at the synapses of one set of weights, and what they make of them.

    .. math:: \nabla = \textstyle\sum_{\text{batch}} \text{post}\; \text{pre}^\top + \text{decay} \cdot W

    One set of weights may be named more than once; the contributions add.

    - ``weight``: ``"W2"``, ``"B3"``, the name of a parameter, of the network or of the rule.
    - ``post``: signal at the unit that the synapse reaches, ``(batch, n_post)`` or maps.
    - ``pre``: signal at the unit that it comes from, ``(batch, n_pre)`` or maps.
    - ``bias``: name of the parameter that takes ``Σ_batch post``.
    - ``decay``: added times the weight itself; a number, or one value a unit, ``(n_post, 1)``.
    - ``total``: stands for the sum where it is not worked out as one of outer products; a tensor in the shape of the
      weights, or the name of the network's weights whose sum, transposed, it is. Where those are held, so is this.
    """

    weight: str
    post: Tensor
    pre: Tensor
    bias: str | None = None
    decay: float | Tensor = 0.0
    total: Tensor | str | None = None


class Held(NamedTuple):
    """Credit that can be assigned again while all that has travelled up stays as it was: what lesions are made with.

    ``again``: called with a top error, or ``None`` for the one that there was, gives ``{name: pseudo-gradient}`` by the
    weights as they are *then*. ``error``: that top error, ``(batch, n_L)``; ``None`` if a rule does not set it apart.
    """

    again: Callable[[Tensor | None], dict[str, Tensor]]
    error: Tensor | None


class States(NamedTuple):
    """What hidden units hold when they learn from some examples, each tensor ``(batch, n_l)``.

    ``moments``: a dict for each moment at which something can be read, ``{name: {l: state}}``. ``errors``:
    ``{l: δ_l}``, the rule's own errors of these very examples.
    """

    moments: list[dict[str, dict[int, Tensor]]]
    errors: dict[int, Tensor]


class LearningRule(nn.Module):
    """A network and a way of assigning credit to its weights.

    A rule of your own says what :meth:`synapses` are, and no more is needed: ``fit``, every measure and every figure
    take it. The passes are: :meth:`observe` (up), :meth:`answer` (loss and error at the top), :meth:`synapses` (the
    signals that meet, whatever way they came). Each use of a weight *downward* goes through :meth:`feedback`.

    In training mode (``rule.train()``, the default) a rule may also move state of its own when it assigns
    gradients: mirrored feedback weights, redrawn feedback, weight decay. In evaluation mode (``rule.eval()``)
    :meth:`assign_gradients` only answers, and changes nothing but ``.grad``: generators are put back where they were.

    Weights that no synapse names, and weights held by ``requires_grad_(False)``, have ``.grad`` ``None``, so that no
    optimiser moves them.

    Args:
        network: the layers to train.

    Raises:
        TypeError: ``network`` is not a network, or not of a kind that the rule takes.
    """

    #: The kinds of network that the rule takes.
    takes: ClassVar[type[Network] | tuple[type[Network], ...]] = Network
    #: What it can do in a step, by name. The first is what it does unless told otherwise, and in evaluation mode.
    phases: ClassVar[tuple[str, ...]] = ("all",)
    #: Whether it learns from one example after another, with a state that carries over. Then ``learn`` takes its rates
    #: from the optimiser's groups, and nothing else.
    online: ClassVar[bool] = False
    #: Options by name, each with values on the way to a limit at which the gradient is exact.
    limits: ClassVar[dict[str, tuple[float, ...]]] = {}
    #: What the rule takes for granted of other weights and works out in closed form, in words; nothing, of most.
    assumes: str = ""
    #: Whether ``observe`` itself refuses an input that is not finite.
    looks_at_input: ClassVar[bool] = False

    network: Network
    _parameters: dict[str, Any]  # Parameter | None, and Tensor | None: what a rule asks for by its name is there
    _buffers: dict[str, Any]

    def __init__(self, network: Network) -> None:
        super().__init__()
        if not isinstance(network, Network):
            raise TypeError(
                f"network must be a bioplaus_lite Network (MLP, CNN, from_module), not {type(network).__name__}"
            )
        if not isinstance(network, self.takes):
            kinds = self.takes if isinstance(self.takes, tuple) else (self.takes,)
            names = " or ".join(kind.__name__ for kind in kinds)
            raise TypeError(
                f"{type(self).__name__} takes a network of the kind {names}, not a {type(network).__name__}"
            )
        self.network = network
        self._phase = self.phases[0]

    # ---- What a rule says ----

    def prepare(self) -> None:
        """What happens once a batch before credit is assigned, in training mode only: mirrors, redrawn signs."""

    def observe(self, x: Tensor) -> Trace:
        """The passes upward for inputs ``(batch, …)``; draws nothing that :attr:`phase` does not use."""
        return Trace(self.network.activities(x), {})

    def answer(self, trace: Trace, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, a scalar, and the error at the top, ``(batch, n_L)``: by default of the mean cross-entropy."""
        return cross_entropy_and_error(trace.h[-1], y)

    def feedback(self, layer: int) -> Tensor:
        """Weights that carry a signal of ``layer`` (2 … L) down to ``layer - 1``, in the shape of ``W_layerᵀ``.

        Every use of a weight downward goes through here: what reads ``W`` in it transports weights.

        Raises:
            NotImplementedError: the rule sends nothing down.
        """
        raise NotImplementedError(f"{type(self).__name__} sends nothing down")

    def synapses(self, trace: Trace, error: Tensor, y: Tensor) -> Iterator[Synapse]:
        """Yield what meets at each set of weights that learns.

        Args:
            trace: of :meth:`~bioplaus_lite.rules.base.LearningRule.observe`.
            error: of :meth:`~bioplaus_lite.rules.base.LearningRule.answer`.
            y: ``(batch,)``, int64 labels, for passes that depend on the answer.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what its synapses are")

    def finish(self, name: str, gradient: Tensor) -> None:
        """Change the summed gradient of a weight in place, its decay included; by default nothing."""

    def objective(self, scores: Tensor, y: Tensor) -> Tensor:
        """The loss that the rule descends, a differentiable scalar: what the measures take the true gradient of.

        Cross-entropy, unless a rule says otherwise.
        """
        return F.cross_entropy(scores, y)

    def sender(self, layer: int) -> int:
        """The layer whose error travels through ``feedback(layer)``: ``layer``, unless feedback skips layers."""
        return layer

    def forward_path(self, layer: int) -> Tensor:
        """The forward weights that ``feedback(layer)`` answers, shaped as its transpose: ``W_sender ⋯ W_layer``."""
        path = self.network.weight(layer).detach()
        for above in range(layer + 1, self.sender(layer) + 1):
            path = self.network.weight(above).detach() @ path
        return path

    def other_answers(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Ways to answer besides ``forward``, by name: functions from inputs to scores. A training records both."""
        return {}

    def counted_step(self, x: Tensor, y: Tensor) -> tuple[float, float] | None:
        """Multiply-accumulates and bytes of a step, for each example, of a rule that is not plain tensor arithmetic."""
        return None

    # ---- What callers ask ----

    def forward(self, x: Tensor) -> Tensor:
        """Scores of shape ``(batch, n_L)`` for inputs of shape ``(batch, n_0)``."""
        return self.network(x)

    @property
    def phase(self) -> str:
        """What the rule does in a step of training, one of :attr:`phases`.

        Raises:
            ValueError: it is set to anything else.
        """
        return self._phase

    @phase.setter
    def phase(self, name: str) -> None:
        self._phase = checks.one_of("phase", name, self.phases)

    @property
    def acts(self) -> str:
        """The phase that counts now, :attr:`phase` in training mode and the first of :attr:`phases` in evaluation."""
        return self._phase if self.training else self.phases[0]

    @torch.no_grad()
    def assign_gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Write each learned parameter's pseudo-gradient to ``.grad``; return the mean loss, a scalar.

        The gradients are overwritten, not added to: no ``zero_grad`` is needed. A rule that learns online
        (:attr:`online`) shows all examples to the same weights here, and gives the mean of what it would have done.

        Args:
            x: ``(batch, n_0)``, floating point.
            y: ``(batch,)``, int64 labels.

        Raises:
            TypeError: something is not a tensor.
            ValueError: the input has another shape, dtype or place than the network, is not finite, or a label is not
                a class.
            FloatingPointError: the loss is not finite: training has diverged.
            RuntimeError: automatic mixed precision is on.
        """

        def gradient_of(parameter: nn.Parameter) -> Tensor | None:
            if not parameter.requires_grad:
                return None
            if parameter.grad is None:  # writing in place later spares an allocation a step
                parameter.grad = torch.empty_like(parameter)
            return parameter.grad

        if not self.training and self._generators():
            with self.as_it_is():
                return self._assign(x, y, gradient_of)
        return self._assign(x, y, gradient_of)

    def _assign(self, x: Tensor, y: Tensor, place: Callable[[nn.Parameter], Tensor | None]) -> Tensor:
        """Fill ``.grad``. A batch that is refused leaves neither a gradient nor a draw behind."""
        before = {name: generator.get_state() for name, generator in self._generators().items()}
        try:
            loss, synapses = self.credit(x, y)
            summed = self._sum(synapses, place)
        except BaseException:
            for parameter in self.parameters():
                parameter.grad = None
            for name, generator in self._generators().items():
                generator.set_state(before[name])
            raise
        for parameter in (*self._parameters.values(), *self.network._parameters.values()):
            if parameter is not None and id(parameter) not in summed:
                parameter.grad = None
        return loss

    @torch.no_grad()
    def gradients(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """``{name: pseudo-gradient}`` of every weight that a synapse names, held ones too; nothing else is touched."""
        with self.as_it_is():
            summed = self._sum(self.credit(x, y)[1], torch.empty_like).values()
            return {name: g for p, g in summed for name in self._names(p)}

    @torch.no_grad()
    def signals(self, x: Tensor, y: Tensor) -> dict[str, dict[int, Tensor]]:
        """What the rule can show of its way of learning, by name and layer, a row an example. Nothing is moved.

        ``error``: ``δ_l``, what stands for ``∂L/∂a_l`` of the mean loss: the ``post`` of ``W_l``, unless several
        signals meet there. Rules add what they have: ``target``, ``apical`` … A rule in which no error arrives, whose
        units hear one number for all, gives none.
        """
        with self.as_it_is():
            return {"error": self._errors_of(self.credit(x, y)[1])}

    def errors(self, x: Tensor, y: Tensor) -> dict[int, Tensor]:
        """``{l: δ_l}``: the ``error`` of :meth:`signals`, shapes as the activities; empty if it has none."""
        return self.signals(x, y).get("error", {})

    @torch.no_grad()
    def hold(self, x: Tensor, y: Tensor) -> Held:
        """Hold what travels up for ``(batch, n_0)`` and labels ``(batch,)``, and the error at the top.

        What is drawn on the way down is drawn alike each time.
        """
        with self.as_it_is():
            checks.no_autocast(x)
            self.network.check_input(x)
            trace = self.observe(x)
            _, top = self.answer(trace, y)
            places = {name: generator.get_state() for name, generator in self._generators().items()}

        def again(error: Tensor | None = None) -> dict[str, Tensor]:
            with self.as_it_is(), torch.no_grad():
                for name, generator in self._generators().items():
                    generator.set_state(places[name])
                summed = self._sum(self.synapses(trace, (top if error is None else error).clone(), y), torch.empty_like)
                return {name: g for p, g in summed.values() for name in self._names(p)}

        return Held(again, top)

    @torch.no_grad()
    def states(self, x: Tensor, y: Tensor, *, met: bool = False) -> States:
        """What hidden units hold when they learn.

        Unless a rule says otherwise it is one moment, with an ``error`` that something beside the units must carry if
        :meth:`signals` have one. A rule whose units hold the error themselves, in a compartment, or as what changes
        from one moment to the next, names those states: ``apical``, ``basal``, ``soma``, ``activity`` …

        Args:
            x: ``(batch, n_0)``.
            y: ``(batch,)``, int64 labels.
            met: whether the output meets its target, so that there is nothing to correct.
        """
        with self.as_it_is():
            trace = self.observe(x)
            if "error" not in self.signals(x, y):
                return States([{"activity": {layer: trace.h[layer] for layer in range(1, self.network.depth)}}], {})
            _, error = self.answer(trace, y)
            errors = self._errors_of(self.synapses(trace, error * 0 if met else error, y))
            errors.pop(self.network.depth, None)
            return States([{"activity": {layer: trace.h[layer] for layer in errors}, "error": errors}], errors)

    def spikeless(self, x: Tensor, y: Tensor) -> dict[str, Tensor] | None:
        """Of a simulation of spikes, ``{name: pseudo-gradient}`` of its rates; ``None`` of all other rules."""
        return None

    def learn(self, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        """One step of learning: assign gradients, then let ``optimizer`` step. Returns the loss before it."""
        loss = self.assign_gradients(x, y)
        optimizer.step()
        return loss

    def parameter_groups(self) -> list[dict]:
        """Parameter groups for an optimiser: ``forward`` weights and, if the rule learns any, ``feedback``.

        Weights of the network that are held fixed, with ``requires_grad_(False)``, are in neither.
        """
        of_network = {id(p) for p in self.network.parameters()}
        forward = [p for p in self.network.parameters() if p.requires_grad]
        feedback = [p for p in self.parameters() if id(p) not in of_network]
        groups = [{"params": forward, "name": "forward"}]
        return [*groups, {"params": feedback, "name": "feedback"}] if feedback else groups

    def credit(self, x: Tensor, y: Tensor) -> tuple[Tensor, Iterable[Synapse]]:
        """Loss and synapses of a batch, checked: observe, answer, prepare. Only compiled models do it otherwise."""
        checks.no_autocast(x)
        self.network.check_input(x)
        trace = self.observe(x)
        loss, error = self.answer(trace, y)
        self._refuse_nonfinite(x, loss)
        if self.training:
            self.prepare()
        return loss, self.synapses(trace, error, y)

    # ---- How it is done ----

    def _sum(
        self, synapses: Iterable[Synapse], place: Callable[[nn.Parameter], Tensor | None]
    ) -> dict[int, tuple[nn.Parameter, Tensor]]:
        """Sum what meets at the synapses into the tensor that ``place`` gives for each weight; ``None`` leaves it out.

        Decays are added when all is summed, so that a sum can be read by what shares it; :meth:`finish` comes last.

        Returns:
            Each parameter that was named, with its sum, by the parameter's ``id``: hashing a tensor is slow.
        """
        sums: dict[int, tuple[nn.Parameter, Tensor]] = {}
        decays: list[tuple[str, nn.Parameter, float | Tensor]] = []
        shared: list[tuple[str, nn.Parameter, str, float | Tensor]] = []
        own, of_network, layers = self._parameters, self.network._parameters, self.network.layers

        def add(name: str, parameter: nn.Parameter, write: Callable[..., object], *signals: Any) -> None:
            earlier = sums.get(id(parameter))
            out = torch.empty_like(parameter) if earlier else place(parameter)
            if out is None:
                return
            try:
                write(*signals, out)
            except (ValueError, RuntimeError) as error:
                raise type(error)(f"synapse {name}: {error}") from None
            if earlier:
                earlier[1].add_(out)
            else:
                sums[id(parameter)] = parameter, out

        for name, post, pre, bias, decay, total in synapses:
            parameters = own if name in own else of_network
            if (parameter := parameters.get(name)) is None:
                raise self._no_such_weights(name)
            layer = _OWN if parameters is own else layers[int(name[1:]) - 1]
            if isinstance(total, str):
                shared.append((name, parameter, total, decay))
            elif total is None:
                add(name, parameter, layer.outer, post, pre)
            else:
                add(name, parameter, _copy, total)
            if (isinstance(decay, Tensor) or decay) and not isinstance(total, str):
                decays.append((name, parameter, decay))
            if bias is not None:
                if (parameter := parameters.get(bias)) is None:
                    raise self._no_such_weights(bias)
                add(bias, parameter, layer.total, post)
        for name, parameter, source, decay in shared:  # when all is summed, and before anything decays
            if of_network.get(source) is None:
                raise self._no_such_weights(source)
            if chained := [other for _, p, other, _ in shared if p is of_network[source]]:
                raise ValueError(
                    f"synapse {name}: shares the sum of {source}, which shares that of {chained[0]}; "
                    "name weights whose own signals are summed"
                )
            if (found := sums.get(id(of_network[source]))) is None:
                continue  # what shares the sum of weights that are held has none, and stays
            if isinstance(decay, Tensor):
                add(name, parameter, _copy, found[1].transpose(0, 1))
                decays.append((name, parameter, decay))
            else:  # one pass over the weights, not two
                add(name, parameter, _plus, found[1].transpose(0, 1), parameter, decay)
        for name, parameter, decay in decays:
            if (found := sums.get(id(parameter))) is None:
                continue
            gradient = found[1]
            if isinstance(decay, Tensor):
                if decay.numel() not in (1, len(parameter)):
                    allowed = f"1 number or {len(parameter)}, one a unit"
                    raise ValueError(f"synapse {name}: a decay is {allowed}, not {decay.numel()}")
                gradient.addcmul_(parameter, decay.reshape(-1, *[1] * (parameter.ndim - 1)))
            else:
                gradient.add_(parameter, alpha=decay)
        if type(self).finish is not LearningRule.finish:
            for parameter, gradient in sums.values():
                self.finish(self._names(parameter)[0], gradient)
        return sums

    def _no_such_weights(self, name: str) -> ValueError:
        known = [n for n, p in (*self._parameters.items(), *self.network._parameters.items()) if p is not None]
        return ValueError(f"a synapse names the weights {name!r}; there are {', '.join(known)}")

    def _names(self, parameter: nn.Parameter) -> list[str]:
        """The names of a parameter; weights that layers share have several."""
        return [n for n, p in (*self._parameters.items(), *self.network._parameters.items()) if p is parameter]

    def _errors_of(self, synapses: Iterable[Synapse]) -> dict[int, Tensor]:
        """``{l: δ_l}`` for each layer at whose weights one signal meets the activity below."""
        met: dict[int, list[Tensor]] = {}
        for synapse in synapses:
            if synapse.weight.startswith("W") and synapse.weight not in self._parameters:
                met.setdefault(int(synapse.weight[1:]), []).append(synapse.post)
        return {layer: signals[0] for layer, signals in met.items() if len(signals) == 1}

    @contextmanager
    def as_it_is(self) -> Iterator[None]:
        """In evaluation mode, and with every generator put back at the end: what is asked inside moves nothing."""
        modes = {module: module.training for module in self.modules()}
        before = {name: generator.get_state() for name, generator in self._generators().items()}
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for name, generator in self._generators().items():
                generator.set_state(before[name])

    def _generators(self) -> dict[str, torch.Generator]:
        return {name: value for name, value in vars(self).items() if type(value) is _GENERATOR}

    def progress_state(self) -> dict[str, Any]:
        """What a training needs besides parameters and buffers to go on bit for bit: the phase, places in streams."""
        return {"phase": self._phase, "generators": {n: g.get_state() for n, g in self._generators().items()}}

    def take_up(self, state: dict[str, Any]) -> None:
        """Take up the training whose :meth:`progress_state` this was."""
        self.phase = state["phase"]
        for name, generator in self._generators().items():
            if name not in state["generators"]:
                known = ", ".join(state["generators"]) or "none"
                raise ValueError(f"the state has no generator {name!r}; it has {known}")
            generator.set_state(state["generators"][name])

    def get_extra_state(self) -> Tensor:
        """:meth:`progress_state` as bytes in a tensor, so that all of a ``state_dict`` are tensors."""
        torch.save(self.progress_state(), buffer := io.BytesIO())
        return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up the training whose :meth:`get_extra_state` this was; reads tensors and numbers, and runs no code."""
        self.take_up(torch.load(io.BytesIO(bytes(state.cpu().numpy())), weights_only=True))

    def _refuse_nonfinite(self, x: Tensor, loss: Tensor) -> None:
        if x.device.type == "meta":
            return
        value = loss.item()
        # Many an activation makes something finite even of an input that is not.
        if not self.looks_at_input:
            checks.finite_input(x)
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value}: training has diverged, try a smaller learning rate")
