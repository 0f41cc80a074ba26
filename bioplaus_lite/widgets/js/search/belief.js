// What the search knows: the process after what was tried, and where the rule would look next.

import { expectedImprovement, fitProcess, logLikelihood, posterior } from "../gaussian_process.js";

function conditioned({ x, y, mean, amplitude }, tried, length, noise) {
  const seen = tried.map(([i]) => i);
  return fitProcess(seen.map((i) => x[i]), seen.map((i) => y[i] - mean), { length, noise, amplitude });
}

/** What the process believes after `tried`, and the place `next` where expected improvement is largest. */
export function believe(spec, tried, length, noise) {
  const { x, y, sobol } = spec;
  const process = conditioned(spec, tried, length, noise);
  const at = (place) => {
    const { mean, variance } = posterior(process, place);
    return { mean: mean + spec.mean, variance };
  };
  const seen = tried.map(([i]) => i);
  const best = seen.length ? seen.reduce((top, i) => (y[i] > y[top] ? i : top)) : null;
  const gain = (place) => (best === null ? 0 : expectedImprovement(at(place), y[best]));
  // Where double precision knows no improvement any more: what is nearest to the best in standard deviations.
  const score = (i) => {
    const { mean, variance } = at(x[i]);
    return gain(x[i]) || (mean - y[best]) / Math.sqrt(variance);
  };
  const left = x.map((_, i) => i).filter((i) => !seen.includes(i));
  const scores = best === null ? [] : left.map(score);
  const next = best === null ? sobol[0] : left[scores.indexOf(Math.max(...scores))] ?? null;
  return { seen, at, best, gain, left, next, odds: logLikelihood(process) };
}

/** The pair of slider values with the largest marginal likelihood. */
export function fitted(spec, tried) {
  const pairs = spec.lengths.flatMap((length) => spec.noises.map((noise) => ({ length, noise })));
  const odds = pairs.map(({ length, noise }) => logLikelihood(conditioned(spec, tried, length, noise)));
  return pairs[odds.indexOf(Math.max(...odds))];
}
