"""From two phases to new weights: means over a window, plateaus, errors, updates of ``W``, ``b`` and ``Y``.

Means over a window are linear in the spikes, so ``mean PSP`` is a weighted count of them, and only inputs that
fired in the window change their weights.
"""

from __future__ import annotations

import math

import numpy as np

from bioplaus_lite.models.segregated.compiled.arithmetic import add_scaled, select_nonzero, sigmoid
from bioplaus_lite.models.segregated.compiled.arrays import feedback_of, fired_in, weights_of
from bioplaus_lite.models.segregated.compiled.compiler import jit, jit_any_order
from bioplaus_lite.models.segregated.compiled.vectors import add_outer, add_weighted_rows


@jit
def mean_psp(net, c, spikes, work, end, window):
    """Mean postsynaptic potentials over the ``window`` steps before ``end``: every spike counts with the share of its
    kernel that lies within."""
    depth, memory = len(net.n) - 1, len(c.kernel)
    work.psp[:] = 0
    for step in range(end - window + 1, end + memory):  # in the numbering of ``spikes``
        t = step - memory
        share = 0.0
        for n in range(memory):
            if end - window <= t + n < end:
                share += c.kernel[n]
        share /= window
        for layer in range(depth):
            psp = work.psp[net.unit[layer] :]
            for i in fired_in(spikes, layer, step):
                psp[i] += share


@jit
def average_seen(n_out, work, end, window, early):
    """``mean_seen[e]``: mean of what apical dendrites received in the window that ends ``e`` steps early."""
    latest = 0
    for i in range(len(early)):
        latest = max(latest, early[i])
    for e in range(latest + 1):
        mean = work.mean_seen[e]
        mean[:] = 0
        for t in range(end - e - window, end - e):
            for i in range(n_out):
                mean[i] += work.seen[t, i]
        for i in range(n_out):
            mean[i] /= window


@jit
def find_plateaus(net, feedback, work, early, apical, alpha):
    """Plateau potentials of all hidden units, from the mean of what their apical dendrites received."""
    n_out, first = net.n[-1], 0
    for layer in range(1, len(net.n) - 1):
        Y = feedback_of(net, feedback, layer)
        u, m = net.unit[layer], net.m[layer]
        A = apical[u : u + m]
        if len(early) == 0:
            for i in range(n_out):
                work.who[i] = i
            add_weighted_rows(Y, work.who[:n_out], work.mean_seen[0], A)
        else:
            A[:] = 0
            for j in range(net.n[layer]):
                for i in range(n_out):
                    A[j] += Y[i, j] * work.mean_seen[early[first + j], i]
        sigmoid(A, alpha[u : u + m])
        first += net.n[layer]


@jit
def errors_of(net, c, work, rate, output_loss):
    """Errors at the dendrites, ``E``, from what both phases left behind. Returns the output loss."""
    depth = len(net.n) - 1
    first, top = net.unit[1], net.unit[-1]
    soma = np.empty(len(work.V) - first)
    sigmoid(work.mean_V[first:], soma)
    E, alpha_f, alpha_t = work.E[first:top], work.alpha[0, first:top], work.alpha[1, first:top]
    for j in range(len(E)):
        E[j] = -c.k_b * c.phi_max * soma[j] * (1 - soma[j]) * (alpha_t[j] - alpha_f[j])
    for j in range(net.n[depth]):
        f = soma[top - first + j]
        missing = rate[j] - c.phi_max * f
        output_loss += missing * missing
        work.E[top + j] = -c.k_d * c.phi_max * f * (1 - f) * missing
    for layer in range(1, depth + 1):  # what is padding stays zero
        work.E[net.unit[layer] + net.n[layer] : net.unit[layer] + net.m[layer]] = 0
    return output_loss


@jit
def update_weights(net, weights, work, scales):
    """``W ← W - η P E PSPᵀ``, ``b ← b - η P E``; only the weights of inputs that were felt."""
    for layer in range(1, len(net.n)):
        if scales[layer] == 0:
            continue
        W, b = weights_of(net, weights, layer)
        E = work.E[net.unit[layer] : net.unit[layer] + net.m[layer]]
        psp = work.psp[net.unit[layer - 1] : net.unit[layer - 1] + net.n[layer - 1]]
        active = select_nonzero(psp, -scales[layer], work.who, work.factor)
        add_outer(W, work.who[:active], work.factor[:active], E)
        add_scaled(E, -scales[layer], b)


@jit
def learn_feedback(net, c, feedback, work, early):
    """Learned feedback: see ``Simulation.learn_feedback``. ``work.mean_seen`` must be that of the forward plateaus."""
    first = 0
    for layer in range(1, len(net.n) - 1):
        Y = feedback_of(net, feedback, layer)
        for j in range(net.n[layer]):
            unit = net.unit[layer] + j
            predicted = 1 / (1 + math.exp(-np.float64(work.apical[unit])))
            fired = 1 / (1 + math.exp(-np.float64(work.mean_V[unit])))
            error = c.eta_feedback * c.P_hidden * (fired - predicted) * predicted * (1 - predicted)
            mean = work.mean_seen[early[first + j]]
            for i in range(net.n[-1]):
                if Y[i, j] != 0:
                    Y[i, j] += error * mean[i]
        first += net.n[layer]


@jit_any_order
def set_symmetric_feedback(net, c, weights, feedback, work, noise):
    """``Y_l = (W_L ⋯ W_{l+1})ᵀ`` plus noise, keeping zeros and scale of a sparse ``Y``."""
    depth, n_out = len(net.n) - 1, net.n[-1]
    above = work.path[0]
    for i in range(n_out):
        above[i, :] = 0
        above[i, i] = 1
    which, first = 0, 0
    for layer in range(depth - 1, 0, -1):
        W, _ = weights_of(net, weights, layer + 1)
        Y = feedback_of(net, feedback, layer)
        here = work.path[1 - which]
        for i in range(n_out):
            for j in range(net.n[layer]):
                total = W[j, 0] * above[i, 0]
                for up in range(1, net.n[layer + 1]):
                    total += W[j, up] * above[i, up]
                here[i, j] = total
                drawn = noise[first + j * n_out + i] if len(noise) else 0.0
                if Y[i, j] != 0:
                    Y[i, j] = (total + drawn) / c.share
        first += n_out * net.n[layer]
        above = here
        which = 1 - which
