// Eleven learning rules for small networks: the arithmetic of the playground, which runs in a page without a kernel.
// Each rule is as bioplaus_lite/rules/*.py define it, where its source stands; a test holds the two to each other.
//
//   h_0 = x,   a_l = W_l h_{l-1} + b_l,   h_l = σ(a_l) for l < L,   h_L = a_L, the scores.   B: number of examples.
//   Loss: mean cross-entropy of softmax(h_L).   Every rule:  ∇W_l = Σ_batch δ_l h_{l-1}ᵀ,   ∇b_l = Σ_batch δ_l.
//   Kolen–Pollack adds a decay to that; in segregated compartments φ h, a rate, stands for h.
//
// A matrix is an array of rows, each a Float64Array. A batch X has a row an example, Y the class of each. Weights go by
// their Python names: W1 b1 … WL bL in net.forward, B2, c2, Y1, W_down1 … in net.feedback. Layers are counted from 1.
// Options of a rule start where Python's do, but for rates and `width`, which suit two inputs and small layers,
// and TP's alpha, which is that of the trainings on record.
//
//   RULES[name] → { label, options: { name: [default, least, most] }, hasFeedback, … }; `activation` if the rule takes
//     one only, `prefers` if it starts with one, `inputs` if they must lie in a range
//   create(rule, sizes, { activation, start, options, random }) → net: { rule, sizes, depth, activation, options,
//     random, forward, feedback }; random is a generator as of mulberry32(seed), start a name in STARTS. Options may be
//     changed while it learns; scale, angle, width and downWidth count at the start only
//   load(rule, tensors, { activation, options, random }) → net, from nested arrays by Python name
//   observe(net, X) → [h_0 … h_L];  predict(net, X) → classes;  accuracy(net, X, Y);  softmax(h_L)
//   draw(net, batch) → { layer: matrix }, the random numbers of one step, if the rule draws any. What is not told its
//     draws makes them; of draws: {} the inverses of targets see no noise, and nothing is drawn
//   gradients(net, X, Y, { draws, silence, down, learning }) → { loss, h, forward: { W1, b1 … }, feedback: { B2 … },
//     errors: { l: δ_l }, arriving: { l: what hidden layer l is sent } }. What arrives is of the rule's own kind: an
//     error before the slope; a step of the target, ĥ - h; a difference of plateaus; an apical voltage. The first
//     points away from where the activity should go, the others there.
//     silence: no teacher, the error at the top is 0.  down: the weights to read on the way down, as of lesion().
//     learning: false leaves out what is no credit, the decay.
//   step(net, X, Y, { rate, feedbackRate, draws, silence, down }) → loss before it, not finite if learning diverged.
//     Plain SGD, `rate` a number or one for each layer; inverses learn at feedbackRate, other feedback at `rate`. A
//     mirror turns before the step, and what learns online learns from one example at a time.
//   lesion(net, sd, random) → { W1 … WL } with noise, for `down`
//   feedbackOf(net, l) → what carries a signal down to layer l - 1, in the shape of W_lᵀ; direct feedback: from the top
//   weightAngle(net), angleToBackprop(net, X, Y) → { l: degrees }

// ------------------------------------------------------------------------------------------------- random numbers

/** Uniform numbers in [0, 1), the same for the same seed. */
export function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A draw from the standard normal distribution, by Box and Muller. */
export function normal(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

// ------------------------------------------------------------------------------------------------------- matrices

const zeros = (rows, columns) => Array.from({ length: rows }, () => new Float64Array(columns));
const filled = (rows, columns, value) => each(value, zeros(rows, columns)); // value() is asked for each place
const transpose = (A) => zeros(A[0].length, A.length).map((row, i) => row.map((_, j) => A[j][i]));

/** f of the entries of one to three matrices of one shape, place by place. */
function each(f, A, B, C) {
  return A.map((row, i) => {
    const [b, c] = [B?.[i], C?.[i]];
    return row.map((value, j) => f(value, b?.[j], c?.[j]));
  });
}

/** Signals, a row an example, as they arrive through weights M (to × from): M s + bias. */
function through(M, signals, bias) {
  return signals.map((s) => {
    const out = new Float64Array(M.length);
    for (let i = 0; i < M.length; i += 1) {
      let sum = bias ? bias[i] : 0;
      for (let j = 0; j < s.length; j += 1) sum += M[i][j] * s[j];
      out[i] = sum;
    }
    return out;
  });
}

/** Σ_batch post preᵀ: what two signals make of each other at the synapses where they meet. */
function outer(post, pre) {
  const out = zeros(post[0].length, pre[0].length);
  post.forEach((to, b) => out.forEach((row, i) => {
    for (let j = 0; j < row.length; j += 1) row[j] += to[i] * pre[b][j];
  }));
  return out;
}

const total = (post) => post[0].map((_, i) => post.reduce((sum, row) => sum + row[i], 0)); // Σ_batch post
const norm = (A) => Math.hypot(...A.map((row) => Math.hypot(...row)));
const rms = (A) => norm(A) / Math.sqrt(A.length * A[0].length);

/** Degrees between two matrices as flat vectors; in this form no digit is lost near 0 and 180. Of zeros, NaN. */
function angleBetween(A, B) {
  const [a, b] = [norm(A), norm(B)];
  const apart = (sign) => norm(each((u, v) => u / a + (sign * v) / b, A, B));
  return (2 * Math.atan2(apart(-1), apart(1)) * 180) / Math.PI;
}

// ------------------------------------------------------------------------------------------- activations, starts

const sigmoid = (a) => 1 / (1 + Math.exp(-a));

/** σ, and its slope σ' as a function of the activity h = σ(a). */
export const ACTIVATIONS = {
  relu: { of: (a) => Math.max(a, 0), slope: Math.sign },
  tanh: { of: Math.tanh, slope: (h) => 1 - h * h },
  sigmoid: { of: sigmoid, slope: (h) => h * (1 - h) },
};

/** Half-width of the uniform distribution from which weights are drawn, of (fan in, fan out, options). */
export const STARTS = {
  pytorch: (nIn) => 1 / Math.sqrt(nIn),
  glorot: (nIn, nOut) => Math.sqrt(6 / (nIn + nOut)),
  he: (nIn) => Math.sqrt(6 / nIn),
  pyramidal: (nIn, nOut, options) => options.width,
  dendritic: (nIn) => dendriticRange(nIn).halfWidth,
};

const halfWidth = (net, l) => STARTS[net.start](net.sizes[l - 1], net.sizes[l], net.options);
const uniform = (net, rows, columns, half, mean = 0) =>
  filled(rows, columns, () => mean + half * (2 * net.random() - 1));

// ------------------------------------------------------------------------------------------- one network, one step

const layers = (from, to) => Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);
const byLayer = (which, of) => Object.fromEntries(which.map((l) => [l, of(l)]));
const slope = (net, h) => each(ACTIVATIONS[net.activation].slope, h);
const times = (A, B) => each((a, b) => a * b, A, B);
const scaled = (A, factor) => each((a) => a * factor, A);

/** a_l of the activities below; a rule whose cells do otherwise says so. */
function current(net, l, below) {
  const { forward } = net;
  if (RULES[net.rule].current) return RULES[net.rule].current(net, l, below);
  return through(forward[`W${l}`], below, forward[`b${l}`]);
}

/** f_l: what layer l answers to the activities below. */
function respond(net, l, below) {
  const a = current(net, l, below);
  return l < net.depth ? each(ACTIVATIONS[net.activation].of, a) : a;
}

export function observe(net, X) {
  const h = [X];
  for (let l = 1; l <= net.depth; l += 1) h.push(respond(net, l, h[l - 1]));
  return h;
}

export function softmax(scores) {
  return scores.map((row) => {
    const most = Math.max(...row);
    const e = row.map((s) => Math.exp(s - most));
    const sum = e.reduce((a, b) => a + b);
    return e.map((v) => v / sum);
  });
}

/** Mean of -log softmax(s)_y. */
function crossEntropy(scores, Y) {
  const of = (s, y) => {
    const most = Math.max(...s);
    return most - s[y] + Math.log(s.reduce((sum, v) => sum + Math.exp(v - most), 0));
  };
  return scores.reduce((sum, s, b) => sum + of(s, Y[b]), 0) / scores.length;
}

/** δ_L = (softmax(s) - onehot(y)) / B. */
const crossEntropyError = (net, scores, Y) =>
  softmax(scores).map((p, b) => p.map((v, i) => (v - (i === Y[b])) / scores.length));

export function gradients(net, X, Y, { draws, silence = false, down = net.forward, learning = true } = {}) {
  const { depth } = net;
  const rule = RULES[net.rule];
  const h = observe(net, X);
  const corrupted = rule.corrupt ? rule.corrupt(net, h, draws ?? draw(net, X.length)) : null; // before any lesion
  const top = each((e) => (silence ? 0 : e), rule.top(net, h[depth], Y));
  const { errors, arriving, feedback = {} } = rule.credit(net, { h, top, down, corrupted });
  const forward = {};
  for (let l = 1; l <= depth; l += 1) {
    forward[`W${l}`] = outer(errors[l], rule.presynaptic ? rule.presynaptic(h[l - 1]) : h[l - 1]);
    forward[`b${l}`] = total(errors[l]);
  }
  const found = { loss: crossEntropy(h[depth], Y), h, errors, arriving, forward, feedback };
  return learning && rule.finish ? rule.finish(net, found) : found;
}

/** weights -= rate · gradient, in place. */
function descend(weights, gradient, rate) {
  const move = (to, by) => by.forEach((g, j) => { to[j] -= rate * g; });
  if (gradient[0].length === undefined) move(weights, gradient); // a bias
  else gradient.forEach((row, i) => move(weights[i], row));
}

export function step(net, X, Y, { rate, feedbackRate, draws, silence, down } = {}) {
  const rule = RULES[net.rule];
  if (rule.online && X.length > 1) { // one example after another; the loss of each before its own update
    const losses = X.map((x, b) => step(net, [x], [Y[b]], { rate, silence, down }));
    return losses.reduce((a, b) => a + b) / X.length;
  }
  const now = draws ?? draw(net, X.length);
  rule.prepare?.(net, now);
  const found = gradients(net, X, Y, { draws: now, silence, down });
  const up = rate ?? net.options.rate;
  const back = feedbackRate ?? net.options.feedbackRate ?? up;
  const move = (weights, gradient, rates) => Object.entries(gradient).forEach(([name, g]) =>
    descend(weights[name], g, rates[Number(/\d+$/.exec(name)) - 1] ?? rates));
  move(net.forward, found.forward, up);
  move(net.feedback, found.feedback, back);
  return found.loss;
}

export const draw = (net, batch) => RULES[net.rule].draw?.(net, batch) ?? {};

// ---------------------------------------------------------------- backpropagation, and what changes B and nothing else

export const feedbackOf = (net, l, down = net.forward) => RULES[net.rule].way(net, l, down);

/** δ_l = (B_{l+1} δ_{l+1}) ⊙ σ'(a_l), from δ_L down, through the weights that `way` gives. */
function sendErrors(net, { h, top, down }, way = feedbackOf) {
  const [errors, arriving] = [{ [net.depth]: top }, {}];
  for (let l = net.depth; l > 1; l -= 1) {
    arriving[l - 1] = through(way(net, l, down), errors[l]);
    errors[l - 1] = times(arriving[l - 1], slope(net, h[l - 1]));
  }
  return { errors, arriving };
}

const transposed = (net, l, down) => transpose(down[`W${l}`]);
const own = (net, l) => net.feedback[`B${l}`];

/** B_l uniform in `scale` times the range of W_l, n_{l-1} × n_l. */
function ownFeedback(net) {
  const { sizes, options } = net;
  for (let l = 2; l <= net.depth; l += 1) {
    net.feedback[`B${l}`] = uniform(net, sizes[l - 1], sizes[l], options.scale * halfWidth(net, l));
  }
}

/** B of the same length, turned to `degrees` from Wᵀ in the plane of the two. Without degrees it stays. */
function turned(B, Wt, degrees) {
  if (degrees === null) return B;
  const [size, along] = [norm(B), scaled(Wt, 1 / norm(Wt))];
  const share = times(B, along).reduce((sum, row) => sum + row.reduce((a, b) => a + b), 0);
  const across = each((b, w) => b - share * w, B, along);
  const angle = (degrees * Math.PI) / 180;
  const [a, b] = [size * Math.cos(angle), (size * Math.sin(angle)) / norm(across)];
  return each((w, v) => a * w + b * v, along, across);
}

/** W_L ⋯ W_l, n_L × n_{l-1}: the way up that direct feedback answers. */
function pathAbove(net, l) {
  let path = net.forward[`W${l}`];
  for (let k = l + 1; k <= net.depth; k += 1) path = transpose(through(net.forward[`W${k}`], transpose(path)));
  return path;
}

const backprop = {
  label: "Backpropagation",
  options: { rate: [0.3, 0.001, 10] },
  start: "pytorch",
  hasFeedback: false,
  top: crossEntropyError,
  way: transposed,
  credit: sendErrors,
};

/** B_l is random and stays. angle: at which B starts from Wᵀ; null leaves it as drawn, about 90° in large layers. */
const fa = {
  ...backprop,
  label: "Feedback alignment",
  options: { rate: [0.3, 0.001, 10], scale: [1, 0.01, 10], angle: [null, 0, 180] },
  hasFeedback: true,
  way: own,
  begin(net) {
    ownFeedback(net);
    for (let l = 2; l <= net.depth; l += 1) {
      net.feedback[`B${l}`] = turned(own(net, l), transpose(net.forward[`W${l}`]), net.options.angle);
    }
  },
};

/** δ_l = (B_l δ_L) ⊙ σ'(a_l). B_l belongs to the layer that it reaches, n_l × n_L, uniform in ± scale / √n_L. */
const dfa = {
  ...fa,
  label: "Direct feedback alignment",
  way: (net, l) => own(net, l - 1),
  direct: true,
  begin(net) {
    const { sizes, depth, options } = net;
    for (let l = 1; l < depth; l += 1) {
      const B = uniform(net, sizes[l], sizes[depth], options.scale / Math.sqrt(sizes[depth]));
      net.feedback[`B${l}`] = turned(B, transpose(pathAbove(net, l + 1)), options.angle);
    }
  },
  credit(net, { h, top }) {
    const [errors, arriving] = [{ [net.depth]: top }, {}];
    for (let l = net.depth - 1; l > 0; l -= 1) {
      arriving[l] = through(feedbackOf(net, l + 1), top);
      errors[l] = times(arriving[l], slope(net, h[l]));
    }
    return { errors, arriving };
  },
};

/** Feedback sign(W_lᵀ) ⊙ B_l, with every entry of B_l the root mean square of the first W_l. */
const usf = {
  ...backprop,
  label: "Sign symmetry (uniform)",
  hasFeedback: true,
  way: (net, l, down) => each((w, size) => Math.sign(w) * size, transpose(down[`W${l}`]), own(net, l)),
  begin(net) {
    for (let l = 2; l <= net.depth; l += 1) {
      const size = rms(net.forward[`W${l}`]);
      net.feedback[`B${l}`] = filled(net.sizes[l - 1], net.sizes[l], () => size);
    }
  },
};

/** ∇W_l = Σ δ_l h_{l-1}ᵀ + γ W_l, ∇B_l = Σ h_{l-1} δ_lᵀ + γ B_l for l > 1: W_l - B_lᵀ shrinks by 1 - ηγ a step. */
const kolenPollack = {
  ...backprop,
  label: "Kolen–Pollack",
  options: { rate: [0.3, 0.001, 10], decay: [1e-3, 0, 0.5], scale: [1, 0.01, 10] }, // B learns at the rate of W
  hasFeedback: true,
  way: own,
  begin: ownFeedback,
  finish(net, found) {
    const decayed = (gradient, weights) => each((g, w) => g + net.options.decay * w, gradient, weights);
    for (let l = 2; l <= net.depth; l += 1) {
      const [W, B] = [`W${l}`, `B${l}`];
      found.feedback[B] = decayed(transpose(found.forward[W]), net.feedback[B]);
      found.forward[W] = decayed(found.forward[W], net.forward[W]);
    }
    return found;
  },
};

/** Before a step each B_l sees noise ξ of ±1 and the answer W_l ξ:  B ← (1 - ρ) B + ρ mean of ξ (W ξ)ᵀ,  ρ = mirror. */
const weightMirror = {
  ...backprop,
  label: "Weight mirror",
  options: { rate: [0.3, 0.001, 10], mirror: [5e-4, 1e-5, 1], samples: [16, 1, 256], scale: [1, 0.01, 10] },
  hasFeedback: true,
  way: own,
  begin: ownFeedback,
  draw(net) {
    const coins = (n) => filled(net.options.samples, n, () => (net.random() < 0.5 ? -1 : 1));
    return byLayer(layers(2, net.depth), (l) => coins(net.sizes[l - 1]));
  },
  prepare(net, draws) {
    const { mirror, samples } = net.options;
    for (let l = 2; l <= net.depth; l += 1) {
      const seen = outer(draws[l], through(net.forward[`W${l}`], draws[l]));
      net.feedback[`B${l}`] = each((b, s) => (1 - mirror) * b + (mirror / samples) * s, own(net, l), seen);
    }
  },
};

// ------------------------------------------------------------------------------------------------ target propagation

/** g_l(u) = σ(B_l u + c_l): which activity below would have made layer l do this. */
const inverse = (net, l, u) =>
  each(ACTIVATIONS[net.activation].of, through(own(net, l), u, net.feedback[`c${l}`]));

/** u as the inverse of layer l reads it: activities, or of scores the distribution over classes. */
const asRead = (net, l, u) => (l < net.depth ? u : softmax(u));

/** ĥ_{l-1} = g_l(ĥ_l), from ĥ_{L-1} = h_{L-1} - α W_Lᵀ δ_L. A hidden layer lowers ‖h - ĥ‖², an inverse its miss. */
const tp = {
  label: "Target propagation",
  options: { rate: [0.1, 0.001, 30], feedbackRate: [0.1, 0.001, 10], alpha: [10, 0.01, 100], noise: [0.3598, 0, 1] },
  start: "glorot",
  prefers: "tanh",
  hasFeedback: true,
  corrects: false,
  denoises: false,
  inverses: (net) => layers(2, net.depth - 1), // a target is set below the output, and sent on from there
  top: crossEntropyError,
  way: (net, l, down) => (l === net.depth ? transposed(net, l, down) : own(net, l)),
  firstTarget: (net, { h, top, down }) =>
    each((v, e) => v - net.options.alpha * e, h[net.depth - 1], through(feedbackOf(net, net.depth, down), top)),
  begin(net) {
    const { sizes } = net;
    for (const l of RULES[net.rule].inverses(net)) {
      net.feedback[`B${l}`] = uniform(net, sizes[l - 1], sizes[l], STARTS.glorot(sizes[l], sizes[l - 1]));
      net.feedback[`c${l}`] = new Float64Array(sizes[l - 1]);
    }
  },
  draw(net, batch) {
    const noise = (n) => filled(batch, n, () => normal(net.random));
    return byLayer(RULES[net.rule].inverses(net), (l) => noise(net.sizes[l - 1]));
  },
  /** { l: [h_{l-1} + ε, what layer l answers to it] }: what the inverses learn from. */
  corrupt(net, h, draws) {
    const { noise } = net.options;
    return byLayer(RULES[net.rule].inverses(net), (l) => {
      const below = noise && draws[l] ? each((v, z) => v + noise * z, h[l - 1], draws[l]) : h[l - 1];
      return [below, asRead(net, l, respond(net, l, below))];
    });
  },
  credit(net, seen) {
    const { h, top, corrupted } = seen;
    const rule = RULES[net.rule];
    const [errors, arriving, feedback] = [{ [net.depth]: top }, {}, {}];
    /** Of a squared miss, summed over units, mean over the batch, by the current of units whose activity is h. */
    const squared = (miss, activity) => times(scaled(miss, 2 / miss.length), slope(net, activity));
    let target = rule.firstTarget(net, seen);
    for (let l = net.depth - 1; l > 0; l -= 1) {
      arriving[l] = each((t, v) => t - v, target, h[l]);
      errors[l] = squared(scaled(arriving[l], -1), h[l]);
      if (l > 1) target = sendTarget(net, l, h[l - 1], h[l], target);
    }
    for (const l of rule.inverses(net)) {
      const [below, response] = corrupted[l];
      const rebuilt = inverse(net, l, response);
      const post = squared(each((r, t) => r - t, rebuilt, rule.denoises ? h[l - 1] : below), rebuilt);
      feedback[`B${l}`] = outer(post, response);
      feedback[`c${l}`] = total(post);
    }
    return { errors, arriving, feedback };
  },
};

/** ĥ_{l-1} of ĥ_l: g(ĥ), or h + g(ĥ) - g(h), where what the inverse misses is taken off. */
function sendTarget(net, l, below, response, target) {
  const sent = inverse(net, l, target);
  if (!RULES[net.rule].corrects) return sent;
  return each((v, s, r) => v + (s - r), below, sent, inverse(net, l, response));
}

/** ĥ_{l-1} = h_{l-1} + g_l(ĥ_l) - g_l(h_l). */
const dtp = {
  ...tp,
  label: "Difference target propagation",
  options: { ...tp.options, rate: [1, 0.001, 30], alpha: [0.3277, 0.01, 100] },
  corrects: true,
};

/** DTP from the output itself: ô = o + step · (onehot - o), o = softmax(h_L). The inverses give h from f(h + ε). */
const sdtp = {
  ...dtp,
  label: "Simplified DTP",
  options: { rate: [0.3, 0.001, 30], feedbackRate: [0.1, 0.001, 10], noise: [0.214, 0, 1], step: [1, 0.01, 1] },
  denoises: true,
  inverses: (net) => layers(2, net.depth),
  way: own,
  firstTarget(net, { h, top }) {
    const o = softmax(h[net.depth]);
    const target = each((p, e) => p - net.options.step * o.length * e, o, top);
    return sendTarget(net, net.depth, h[net.depth - 1], o, target);
  },
};

// ---------------------------------------------------------------------- segregated compartments, rates at steady state

// Of bioplaus_lite/models/segregated/parameters.py: highest rate (1/ms), conductances (1/ms), reversal potentials.
const PHI = 0.2;
const [G_LEAK, G_DENDRITE, G_TEACH, E_RIGHT, E_WRONG, GAIN] = [0.1, 0.6, 1, 8, -8, 20];
const K = G_DENDRITE / (G_LEAK + G_DENDRITE); // how much of a dendrite's voltage arrives at the soma

/** Mean and half-width of first weights, for dendritic voltages of mean 3 and spread 3 (rate.py: initial_range). */
function dendriticRange(n) {
  const [nu, square] = [PHI / 4, 9 + 9];
  const mean = (3 - 0.8) / (nu * n * 3);
  const moment = square + nu ** 2 * (n - n * n) * mean ** 2 * 9 - 2 * n * nu * 0.8 * 3 * mean - 0.8 ** 2;
  return { mean, halfWidth: 3.465 * Math.sqrt(moment / (n * nu ** 2 * square) - mean ** 2) };
}

/**
 * V_l = k (W_l φ h_{l-1} + b_l), h_l = σ(V_l). The output is taught a rate h*; two plateaus meet at each hidden cell:
 * δ_l = -P k φ σ'(V_l) ⊙ (σ(Y_l φ h*) - σ(Y_l φ h_L)) / B,  δ_L = -P k φ² σ'(V_L) ⊙ (h* - h_L) / B. It learns online.
 */
const segregated = {
  label: "Segregated compartments",
  options: { rate: [0.21, 0.0001, 2] },
  activation: "sigmoid",
  start: "dendritic",
  inputs: [0, 1],
  hasFeedback: true,
  direct: true,
  online: true,
  current: (net, l, below) =>
    scaled(through(net.forward[`W${l}`], scaled(below, PHI), net.forward[`b${l}`]), K),
  presynaptic: (h) => scaled(h, PHI),
  way: (net, l) => net.feedback[`Y${l - 1}`],
  mean: (nIn) => dendriticRange(nIn).mean,
  begin(net) {
    const { sizes, depth } = net;
    for (const l of layers(1, depth)) [net.forward[`b${l}`]] = uniform(net, 1, sizes[l], 3.465 * 0.001, 0.8);
    for (const l of layers(1, depth - 1)) {
      const range = dendriticRange(sizes[l]);
      net.feedback[`Y${l}`] = uniform(net, sizes[l], sizes[depth], range.halfWidth, range.mean);
    }
  },
  /** h* - h_L, of the soma that the teacher's conductance drives towards one of two reversal potentials. */
  top: (net, V, Y) => V.map((row, b) => row.map((v, i) => {
    const taught = (G_DENDRITE * v) / K + G_TEACH * (i === Y[b] ? E_RIGHT : E_WRONG);
    return sigmoid(taught / (G_LEAK + G_DENDRITE + G_TEACH)) - sigmoid(v);
  })),
  /** Of ½‖φ h* - φ σ(V_L)‖², the model's own loss, by V_L. */
  objective: (net, V, top) => scaled(times(top, slope(net, each(sigmoid, V))), -(PHI ** 2) / V.length),
  credit(net, { h, top }) {
    const { depth } = net;
    const rates = each(sigmoid, h[depth]);
    const taught = each((r, e) => r + e, rates, top);
    const hidden = (-GAIN * K) / top.length; // P k φ with P = gain / φ
    const output = (-GAIN * K) / top.length; // P k φ² with P = gain / φ²
    const [errors, arriving] = [{ [depth]: scaled(times(top, slope(net, rates)), output) }, {}];
    for (let l = 1; l < depth; l += 1) {
      const plateaus = (sent) => each(sigmoid, through(feedbackOf(net, l + 1), scaled(sent, PHI)));
      arriving[l] = each((t, f) => t - f, plateaus(taught), plateaus(rates));
      errors[l] = scaled(times(arriving[l], slope(net, h[l])), hidden);
    }
    return { errors, arriving };
  },
};

// ------------------------------------------------------------------------------ dendritic microcircuits, steady state

const [WRONG_RATE, RIGHT_RATE] = [0.1, 0.8];
const logit = (r) => Math.log(r / (1 - r));

/** σ(v + d) - σ(v) of the rate σ(v), exact for small d as well. */
function rateChange(rate, d) {
  const e = Math.expm1(Math.min(d, 80));
  return (rate * (1 - rate) * e) / Math.max(1 + rate * e, Number.MIN_VALUE);
}

/**
 * The output is nudged by d_L = -λ (h_L - u*). Moved by d_l, a soma changes its rate by Δ_l(d_l) = σ(a_l + d_l) -
 * σ(a_l), and the interneurons that predict it theirs by Δ_l(λ d_l). The rest reaches the apical dendrites below,
 * v_{l-1} = W_down,l-1 (Δ_l(d_l) - Δ_l(λ d_l)), and moves their somata by d_{l-1} = λ v_{l-1}.
 * δ_l = -Δ_l(d_l) / (B λ^{L-l+1}).
 */
const microcircuits = {
  label: "Dendritic microcircuits",
  options: { rate: [1, 0.001, 10], lam: [0.1, 0.01, 0.9], width: [3, 0.01, 10], downWidth: [1, 0.01, 10] },
  activation: "sigmoid",
  start: "pyramidal",
  hasFeedback: true,
  way: (net, l) => net.feedback[`W_down${l - 1}`],
  begin(net) {
    for (let l = 1; l < net.depth; l += 1) {
      net.feedback[`W_down${l}`] = uniform(net, net.sizes[l], net.sizes[l + 1], net.options.downWidth);
    }
  },
  /** h_L - u*, voltages. */
  top: (net, scores, Y) =>
    scores.map((row, b) => row.map((v, i) => v - logit(i === Y[b] ? RIGHT_RATE : WRONG_RATE))),
  /** Of the relative entropy of output rates to target rates, by h_L. */
  objective: (net, scores, top) => scaled(times(top, slope(net, each(sigmoid, scores))), 1 / scores.length),
  credit(net, { h, top }) {
    const { lam } = net.options;
    const [errors, arriving] = [{}, {}];
    let rates = each(sigmoid, h[net.depth]);
    let shift = scaled(top, -lam);
    for (let l = net.depth; l > 0; l -= 1) {
      const change = each(rateChange, rates, shift);
      errors[l] = scaled(change, -1 / (top.length * lam ** (net.depth - l + 1)));
      if (l === 1) break;
      const unpredicted = each((all, r, d) => all - rateChange(r, lam * d), change, rates, shift);
      arriving[l - 1] = through(feedbackOf(net, l), unpredicted);
      shift = scaled(arriving[l - 1], lam);
      rates = h[l - 1];
    }
    return { errors, arriving };
  },
};

export const RULES = {
  backprop, fa, dfa, usf, kolen_pollack: kolenPollack, weight_mirror: weightMirror, tp, dtp, sdtp, segregated,
  microcircuits,
};

// --------------------------------------------------------------------------------------------------------- networks

function empty(rule, sizes, { activation, start, options = {}, random = mulberry32(1) }) {
  if (!RULES[rule]) throw new Error(`rule must be one of ${Object.keys(RULES).join(", ")}, not ${rule}`);
  const says = RULES[rule];
  const chosen = activation ?? says.activation ?? says.prefers ?? "tanh";
  if (!ACTIVATIONS[chosen] || (says.activation && chosen !== says.activation)) {
    const allowed = says.activation ?? Object.keys(ACTIVATIONS).join(", ");
    throw new Error(`activation of ${rule} must be one of ${allowed}, not ${chosen}`);
  }
  const depth = sizes.length - 1;
  if (depth < 2 || depth > 5) throw new Error(`there must be 1 to 4 hidden layers, not ${depth - 1}`);
  const unknown = Object.keys(options).find((name) => !(name in says.options));
  if (unknown) throw new Error(`options of ${rule} are ${Object.keys(says.options).join(", ")}, not ${unknown}`);
  const defaults = Object.fromEntries(Object.entries(says.options).map(([name, [value]]) => [name, value]));
  return {
    rule, sizes: [...sizes], depth, activation: chosen, start: start ?? says.start,
    options: { ...defaults, ...options }, random, forward: {}, feedback: {},
  };
}

/** A network at its start, drawn from `random`: forward weights, zero biases, then what the rule has besides. */
export function create(rule, sizes, how = {}) {
  const net = empty(rule, sizes, how);
  for (let l = 1; l <= net.depth; l += 1) {
    net.forward[`W${l}`] = uniform(net, sizes[l], sizes[l - 1], halfWidth(net, l), RULES[rule].mean?.(sizes[l - 1]));
    net.forward[`b${l}`] = new Float64Array(sizes[l]);
  }
  RULES[rule].begin?.(net);
  return net;
}

/** The network whose weights these are, nested arrays by their names in Python. */
export function load(rule, tensors, how = {}) {
  const depth = Object.keys(tensors).filter((name) => /^W\d+$/.test(name)).length;
  const sizes = Array.from({ length: depth }, (_, i) => tensors[`W${i + 1}`][0].length);
  const net = empty(rule, [...sizes, tensors[`W${depth}`].length], how);
  for (const [name, values] of Object.entries(tensors)) {
    const part = /^[Wb]\d+$/.test(name) ? net.forward : net.feedback;
    const isMatrix = values[0].length !== undefined;
    part[name] = isMatrix ? values.map((row) => Float64Array.from(row)) : Float64Array.from(values);
  }
  return net;
}

// --------------------------------------------------------------------------------------------------------- measures

export const predict = (net, X) => observe(net, X)[net.depth].map((s) => s.indexOf(Math.max(...s)));

export function accuracy(net, X, Y) {
  return predict(net, X).filter((y, b) => y === Y[b]).length / Y.length;
}

/** { l: degrees between W_l and B_lᵀ } for l > 1; of direct feedback, between W_L ⋯ W_l and the B that answers it. */
export function weightAngle(net) {
  const path = (l) => (RULES[net.rule].direct ? pathAbove(net, l) : net.forward[`W${l}`]);
  const angle = (l) => angleBetween(path(l), transpose(feedbackOf(net, l)));
  return byLayer(layers(2, net.depth), angle);
}

/** { l: degrees between the rule's update of W_l and that of gradient descent on its own objective }. */
export function angleToBackprop(net, X, Y, asked = {}) {
  const rule = RULES[net.rule];
  const { h, forward } = gradients(net, X, Y, { ...asked, draws: {}, learning: false }); // asking draws nothing
  const error = rule.top(net, h[net.depth], Y);
  const top = rule.objective ? rule.objective(net, h[net.depth], error) : error;
  // Gains of dendrites are left out: they are one factor a layer, and turn nothing.
  const { errors } = sendErrors(net, { h, top, down: net.forward }, transposed);
  return byLayer(layers(1, net.depth), (l) => angleBetween(forward[`W${l}`], outer(errors[l], h[l - 1])));
}

/** W_l with noise of `sd` times its root mean square: for gradients(…, { down }), which then goes down another way. */
export function lesion(net, sd, random) {
  const jittered = (W) => each((w) => w + sd * rms(W) * normal(random), W);
  return Object.fromEntries(layers(1, net.depth).map((l) => [`W${l}`, jittered(net.forward[`W${l}`])]));
}
