"""An example through time: what is still in memory, then one phase after another, layer by layer."""

from __future__ import annotations

import math

import numpy as np

from bioplaus_lite.models.segregated.compiled.arithmetic import (
    add_scaled,
    copy_to,
    filter_currents,
    filter_spikes,
    keep_below,
    sigmoid,
)
from bioplaus_lite.models.segregated.compiled.arrays import VECTOR, WIDE, feedback_of, fired_in, memory_of, weights_of
from bioplaus_lite.models.segregated.compiled.compiler import jit
from bioplaus_lite.models.segregated.compiled.vectors import add_rows, step_narrow, step_wide


@jit
def see_output(c, V, out_L, out_s, seen):
    """What the apical dendrites receive from the output as it is now."""
    if c.spiking_feedback:
        for i in range(len(seen)):
            seen[i] = c.kernel_scale * (out_L[i] - out_s[i])
    else:
        for i in range(len(seen)):
            seen[i] = c.phi_max / (1 + math.exp(-V[i]))


@jit
def begin_example(net, c, weights, spikes, work):
    """Keep the spikes that are still in memory, and see them through the weights as they are now."""
    depth, memory = len(net.n) - 1, len(c.kernel)
    last = spikes.steps[0]
    for layer in range(depth + 1):
        a, until = spikes.start[layer], spikes.until[layer]
        shift = until[last]
        for step in range(memory + 1):
            until[step] = until[last + step] - shift
        for i in range(until[memory]):
            spikes.who[a + i] = spikes.who[a + shift + i]
    spikes.steps[0] = 0
    see_output(c, work.V[net.unit[depth] :], work.out_L, work.out_s, work.seen[0])
    for layer in range(1, depth + 1):
        W, _ = weights_of(net, weights, layer)
        m = net.m[layer]
        ring, sums = memory_of(net, c, work, layer)
        ring[memory] = 0
        sums[:] = 0
        for step in range(memory):
            if step == 0:  # leaves the memory as the first new step comes in
                ring[step] = 0
            else:
                add_rows(W, fired_in(spikes, layer - 1, step), ring[step, :m])
            filter_currents(c, ring[step, :m], sums[0, :m], sums[1, :m])


@jit
def _take_input(net, c, draws, k, spikes, begin, end):
    """Put the input spikes of steps ``begin … end-1`` where those of the other layers are."""
    memory = len(c.kernel)
    a, b = draws.until[k, 0, begin], draws.until[k, 0, end]
    at = spikes.until[0, memory + begin]
    copy_to(draws.who[k, a:b], spikes.who[spikes.start[0] + at :])
    for t in range(begin, end):
        spikes.until[0, memory + t + 1] = at + draws.until[k, 0, t + 1] - a


@jit
def _advance(net, c, weights, feedback, draws, k, spikes, work, layer, begin, end, label, averaged):
    """One layer through steps ``begin … end-1``; its mean voltage gathers from step ``averaged`` on."""
    depth, memory, n_out = len(net.n) - 1, len(c.kernel), net.n[-1]
    W, bias = weights_of(net, weights, layer)
    ring, sums = memory_of(net, c, work, layer)
    u, m = net.unit[layer], net.m[layer]
    V, mean_V, drive = work.V[u : u + m], work.mean_V[u : u + m], work.drive[u : u + m]
    below, until_below = spikes.who[spikes.start[layer - 1] :], spikes.until[layer - 1]
    fired, until = spikes.who[spikes.start[layer] :], spikes.until[layer]
    who, logit = draws.who[k, draws.start[layer] :], draws.logit[k, draws.start[layer] :]
    until_drawn = draws.until[k, layer]
    part, voltages = 0, work.hidden
    if layer == depth:
        voltages = work.output
        part = 1 if label < 0 else 2
        for i in range(n_out):
            drive[i] = 0 if label < 0 else (c.drive_E if i == label else c.drive_I)
    elif c.apical != 0:
        Y = feedback_of(net, feedback, layer)
        drive[:] = 0
        for i in range(n_out):
            add_scaled(Y[i, :m], c.apical * work.seen[begin, i], drive)
    # Some columns of all steps before the next columns: their weights then stay in the fastest cache.
    copy_to(V, voltages[begin])
    width = WIDE if m > VECTOR else VECTOR
    for column in range(0, m, width):
        for t in range(begin, end):
            s = memory + t
            a, b, now, gone = until_below[s], until_below[s + 1], s % (memory + 1), (s + 1) % (memory + 1)
            if m > VECTOR:
                step_wide(W, below, a, b, column, ring, now, gone, sums, bias, drive, voltages, t + 1, c.soma[part])
            else:
                step_narrow(W, below, a, b, column, ring, now, gone, sums, bias, drive, voltages, t + 1, c.soma[part])
    copy_to(voltages[end, :m], V)
    for t in range(max(begin, averaged), end):
        add_scaled(voltages[t + 1, :m], c.one, mean_V)
    for t in range(begin, end):
        s, a, b = memory + t, until_drawn[t], until_drawn[t + 1]
        until[s + 1] = until[s] + keep_below(who[a:b], logit[a:b], voltages[t + 1], fired[until[s] :])
        if layer == depth:
            filter_spikes(c, fired[until[s] : until[s + 1]], fired[until[t] : until[t + 1]], work.out_L, work.out_s)
            see_output(c, voltages[t + 1], work.out_L, work.out_s, work.seen[t + 1])  # in the next step


@jit
def run_phase(net, c, weights, feedback, draws, k, spikes, work, begin, end, window, label, rate):
    """A phase, from step ``begin`` to ``end``; ``label`` is -1 in a forward phase.

    With full segregation nothing flows back within an example, and each layer can run through the phase by itself.
    Afterwards the mean voltages of a forward window are in ``mean_V``, the mean output rate of the window in ``rate``.
    """
    _take_input(net, c, draws, k, spikes, begin, end)
    averaged = end
    if label < 0:
        averaged = end - window
        work.mean_V[:] = 0
    at_once = end - begin if c.apical == 0 else 1
    for t in range(begin, end, at_once):
        for layer in range(1, len(net.n)):
            _advance(net, c, weights, feedback, draws, k, spikes, work, layer, t, t + at_once, label, averaged)
    spikes.steps[0] = end
    if label < 0:
        for j in range(len(work.mean_V)):
            work.mean_V[j] /= window
    else:
        phi = np.empty(window * net.m[-1])
        sigmoid(work.output[end - window + 1 : end + 1].ravel(), phi)
        rate[:] = 0
        for t in range(window):
            for i in range(net.n[-1]):
                rate[i] += c.phi_max * phi[t * net.m[-1] + i] / window
