// A Gaussian process on a line: the twin of bioplaus_lite/gaussian_process.py, where the equations and their sources
// stand. A test holds the two to each other. `amplitude` and `noise` are standard deviations in units of y.

const ROOT_5 = Math.sqrt(5);

/** Matérn's kernel with 5/2. */
export function matern(a, b, { length, amplitude }) {
  const r = (ROOT_5 * Math.abs(a - b)) / length;
  return amplitude ** 2 * (1 + r + (r * r) / 3) * Math.exp(-r);
}

/** L, lower triangular, with L Lᵀ = A. */
export function cholesky(A) {
  const L = A.map(() => []);
  A.forEach((row, i) => {
    for (let j = 0; j <= i; j += 1) {
      let rest = row[j];
      for (let k = 0; k < j; k += 1) rest -= L[i][k] * L[j][k];
      L[i][j] = i === j ? Math.sqrt(rest) : rest / L[j][j];
    }
  });
  return L;
}

/** L⁻¹ b, by substitution from the first row on. */
export function solveLower(L, b) {
  const out = [];
  L.forEach((row, i) => {
    let rest = b[i];
    for (let k = 0; k < i; k += 1) rest -= row[k] * out[k];
    out.push(rest / row[i]);
  });
  return out;
}

const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

/** What n values y at x say of f: the factor of K + noise²I and L⁻¹ y. This is what costs n³/3. */
export function fitProcess(x, y, scales) {
  const noisy = (i, j) => (i === j ? scales.noise ** 2 : 0);
  const L = cholesky(x.map((a, i) => x.map((b, j) => matern(a, b, scales) + noisy(i, j))));
  return { x, scales, L, white: solveLower(L, y) };
}

/** Mean and variance of f at one place: each costs n²/2. */
export function posterior({ x, scales, L, white }, at) {
  const part = solveLower(L, x.map((a) => matern(a, at, scales)));
  return { mean: dot(part, white), variance: Math.max(0, scales.amplitude ** 2 - dot(part, part)) };
}

export function logLikelihood({ L, white }) {
  const logRoot = L.reduce((sum, row, i) => sum + Math.log(row[i]), 0);
  return -dot(white, white) / 2 - logRoot - (white.length * Math.log(2 * Math.PI)) / 2;
}

export const normalDensity = (z) => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);

/** Φ(z), right to about 13 figures in the lower tail too: a series near 0, a continued fraction beyond. */
export function normalBelow(z) {
  const far = Math.abs(z);
  if (far > 4) {
    let fraction = far;
    for (let k = 60; k > 0; k -= 1) fraction = far + k / fraction;
    const tail = normalDensity(far) / fraction;
    return z < 0 ? tail : 1 - tail;
  }
  let [term, sum] = [z, z];
  for (let k = 3; k < 120; k += 2) {
    term *= (z * z) / k;
    sum += term;
  }
  return 0.5 + sum * normalDensity(z);
}

/** E max(f − best, 0). */
export function expectedImprovement({ mean, variance }, best) {
  const [sd, gain] = [Math.sqrt(variance), mean - best];
  return sd > 0 ? gain * normalBelow(gain / sd) + sd * normalDensity(gain / sd) : Math.max(gain, 0);
}
