// What the search says about itself.

import { clamp, fixed } from "../drawing.js";

/** The sentences of a search: `label` and `text` of a step, and the `longest` of each, for which room is kept. */
export function searchWords(spec) {
  const { x, y, ylim, budget, amplitude } = spec;
  const digits = (span) => clamp(3 - Math.ceil(Math.log10(span)), 0, 5);
  const inX = (v) => fixed(v, digits(x.at(-1) - x[0]));
  const inY = (v) => fixed(v, digits(ylim[1] - ylim[0]));
  const top = y.indexOf(Math.max(...y));

  /** What is expected at a place, and twice the standard deviation. */
  const expected = ({ mean, variance }) => [inY(mean), inY(2 * Math.sqrt(variance))];

  /** Why the rule looks where it does. */
  function reason({ at, best, next, seen }) {
    const { mean, variance } = at(x[next]);
    const sd = Math.sqrt(variance);
    const [m, reach] = [inY(mean), inY(mean + 2 * sd)];
    if (mean + 2 * sd < y[best]) {
      return `Little is left to gain: even the top of the band there, ${reach}, is below the best.`;
    }
    if (variance > amplitude ** 2 / 2) { // more than half of the first variance is left
      const far = inX(Math.min(...seen.map((i) => Math.abs(x[i] - x[next]))));
      return `It explores: far from all points, ${far} from the nearest, and the band there reaches up to ${reach}.`;
    }
    // The expectation is gain Φ(z) + σ φ(z): from z = 0.5 on, more of it comes from the mean than from the width.
    if (mean - y[best] > 0.5 * sd) return `It exploits: the mean there, ${m}, is well above the best.`;
    const where = mean < y[best] ? "below the best, but" : "not far above the best, and";
    return `Some of both: the mean there, ${m}, is ${where} the band reaches up to ${reach}.`;
  }

  const told = (best, odds, next) => (
    `Best so far: ${best}. Log marginal likelihood of length scale and noise: ${odds}. ${next}`);

  function text(now) {
    const { seen, best, next, odds } = now;
    if (best === null) {
      return `Before any evaluation the process expects ${inY(spec.mean)}, give or take ${inY(2 * amplitude)}, `
        + `everywhere. No place promises more than another: the rule begins with a Sobol point, ${inX(x[next])}.`;
    }
    const missed = y[top] > y[best] ? `The highest of all ${x.length} is ${inY(y[top])} at ${inX(x[top])}.`
      : `No place of all ${x.length} is higher.`;
    return told(`${inY(y[best])} at ${inX(x[best])}`, fixed(odds, 1), seen.length === budget
      ? `The budget is spent. ${missed}` : `Next the rule would try ${inX(x[next])}. ${reason(now)}`);
  }

  function label({ seen }) {
    const last = seen.at(-1);
    return seen.length ? `${seen.length} tried, the last at ${inX(x[last])}: ${inY(y[last])}` : "nothing tried yet";
  }

  function cost(n) {
    const operations = (m) => fixed(Math.round(m ** 3 / 3), 0);
    return n ? `Cost of one fit to n = ${n} points: n³/3 ≈ ${operations(n)} multiplications and additions; to ten `
      + `times as many, ${operations(10 * n)}.` : "Nothing to fit yet.";
  }

  const [wideX, wideY] = [inX(-Math.max(...x.map(Math.abs))), inY(-Math.max(...ylim.map(Math.abs)))];
  const longest = {
    label: `${budget} tried, the last at ${wideX}: ${wideY}`,
    text: told(`${wideY} at ${wideX}`, "−000.0", `Next the rule would try ${wideX}. It explores: far from all points, ${
      wideX} from the nearest, and the band there reaches up to ${wideY}.`),
  };
  return { inX, inY, expected, label, text, cost, longest };
}
