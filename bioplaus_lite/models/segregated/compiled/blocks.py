"""What the engines call: training on a block of examples, with spikes or in the rate limit, and tests."""

from __future__ import annotations

import math

import numpy as np

from bioplaus_lite.models.segregated.compiled.arithmetic import copy_to, select_nonzero, sigmoid
from bioplaus_lite.models.segregated.compiled.arrays import weights_of
from bioplaus_lite.models.segregated.compiled.compiler import jit
from bioplaus_lite.models.segregated.compiled.credit import (
    average_seen,
    errors_of,
    find_plateaus,
    learn_feedback,
    mean_psp,
    set_symmetric_feedback,
    update_weights,
)
from bioplaus_lite.models.segregated.compiled.draws import draw_example
from bioplaus_lite.models.segregated.compiled.phases import begin_example, run_phase
from bioplaus_lite.models.segregated.compiled.vectors import add_weighted_rows


@jit
def train_block(
    net, c, weights, feedback, draws, spikes, work, steps, labels, early, noise, window, scales, voltage, losses,
    traces,
):
    """Show the examples of a block, one after another, and change the weights after each.

    ``traces``, ``(3, block, units)``, receives what the changes were made of, if it has rows: ``E``, mean postsynaptic
    potentials and mean somatic voltages of the forward window.
    """
    rate = np.empty(net.n[-1])
    u, n = net.unit[-1], net.n[-1]
    zero, nobody = np.int64(0), np.int64(-1)  # a literal would have every function compiled once more for it
    for k in range(len(labels)):
        forward, end = steps[k, 0], steps[k, 0] + steps[k, 1]
        if c.symmetric:
            set_symmetric_feedback(net, c, weights, feedback, work, noise[k])
        begin_example(net, c, weights, spikes, work)
        run_phase(net, c, weights, feedback, draws, k, spikes, work, zero, forward, window, nobody, rate)
        mean_psp(net, c, spikes, work, forward, window)
        average_seen(n, work, forward, window, early[k, 0])
        find_plateaus(net, feedback, work, early[k, 0], work.apical, work.alpha[0])
        if c.learned:
            # The plateaus of this example must not see the change: keep the means, change Y at the end.
            kept = work.mean_seen.copy()
        run_phase(net, c, weights, feedback, draws, k, spikes, work, forward, end, window, labels[k], rate)
        average_seen(n, work, end, window, early[k, 1])
        find_plateaus(net, feedback, work, early[k, 1], work.E, work.alpha[1])  # E is free until the errors are known
        losses[k] = errors_of(net, c, work, rate, 0.0)
        copy_to(work.mean_V[u : u + n], voltage[k])
        if traces.shape[1]:
            copy_to(work.E, traces[0, k])
            copy_to(work.psp, traces[1, k])
            copy_to(work.mean_V, traces[2, k])
        update_weights(net, weights, work, scales)
        if c.learned and scales[0] != 0:
            copy_to(kept.ravel(), work.mean_seen.ravel())
            learn_feedback(net, c, feedback, work, early[k, 0])


@jit
def train_rates(net, c, weights, feedback, work, x, labels, noise, scales, voltage, losses, traces):
    """:func:`train_block` for the rate limit, in the closed form of ``rate.rate_update``."""
    depth, n_out = len(net.n) - 1, net.n[-1]
    rate, early = np.empty(n_out), np.zeros(0 if not c.learned else net.n[1:-1].sum(), np.int64)
    soma = np.empty(net.m.max())
    u = net.unit[depth]
    for k in range(len(labels)):
        if c.symmetric:
            set_symmetric_feedback(net, c, weights, feedback, work, noise[k])
        psp = work.psp[: net.n[0]]
        for i in range(len(psp)):
            psp[i] = c.psp_scale * x[k, i]
        active = select_nonzero(psp, c.one, work.who, work.factor)
        factor = work.factor[:active]
        for layer in range(1, depth + 1):
            W, bias = weights_of(net, weights, layer)
            v, w = net.unit[layer], net.m[layer]
            dendrite, V = work.V[v : v + w], work.mean_V[v : v + w]
            add_weighted_rows(W, work.who[:active], factor, dendrite)
            gain = c.dendrite[0] if layer < depth else c.dendrite[1]
            for j in range(w):
                dendrite[j] += bias[j]
                V[j] = gain * dendrite[j]
            sigmoid(V, soma[:w])
            active = net.n[layer]
            factor = work.psp[v : v + active]
            for j in range(active):
                work.who[j] = j
                factor[j] = c.psp_scale * soma[j]
        for phase in range(2):
            if phase == 1:
                for i in range(n_out):
                    V_target = c.dendrite[2] * work.V[u + i] + (c.drive_E if i == labels[k] else c.drive_I)
                    soma[i] = 1 / (1 + math.exp(-np.float64(V_target)))
            for i in range(n_out):
                rate[i] = c.phi_max * soma[i]
                work.mean_seen[0, i] = rate[i] * (c.psp_scale / c.phi_max if c.spiking_feedback else 1.0)
            find_plateaus(net, feedback, work, early, work.apical if phase == 0 else work.E, work.alpha[phase])
            if c.learned and phase == 0:
                seen = work.mean_seen[0].copy()
        losses[k] = errors_of(net, c, work, rate, 0.0)
        copy_to(work.mean_V[u : u + n_out], voltage[k])
        if traces.shape[1]:
            copy_to(work.E, traces[0, k])
            copy_to(work.psp, traces[1, k])
            copy_to(work.mean_V, traces[2, k])
        update_weights(net, weights, work, scales)
        if c.learned and scales[0] != 0:
            copy_to(seen, work.mean_seen[0])
            learn_feedback(net, c, feedback, work, early)


@jit
def clear(spikes, work):
    work.V[:] = 0
    work.out_L[:] = 0
    work.out_s[:] = 0
    spikes.until[:] = 0
    spikes.steps[0] = 0


@jit
def test_images(
    key, x, first, n, candidate_rate, tables, firsts, lengths, net, c, weights, feedback, draws, spikes, work, steps,
    window, voltage,
):
    """Mean output voltages of each image from rest. The draws of image ``k`` start at place ``k · 2³²`` of the stream,
    so that they do not depend on how the images are shared among threads."""
    u = net.unit[-1]
    rate = np.empty(n[-1])
    zero, nobody = np.int64(0), np.int64(-1)
    for k in range(len(x)):
        place = np.uint64(first + k) << np.uint64(32)
        draw_example(key, place, x[k], n, candidate_rate, tables, firsts, lengths, steps, draws, zero)
        clear(spikes, work)
        begin_example(net, c, weights, spikes, work)
        run_phase(net, c, weights, feedback, draws, zero, spikes, work, zero, steps, window, nobody, rate)
        copy_to(work.mean_V[u : u + n[-1]], voltage[k])
