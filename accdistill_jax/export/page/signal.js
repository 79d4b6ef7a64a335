// Arithmetic of the page: the same steps as accdistill_jax/data/preprocessing/resample.py and quality.py, and readouts/readout.py.
// tests/export/test_page_numbers.py compares the numbers with those of Python.

function bessel0(x) {
  let sum = 1, term = 1;
  for (let k = 1; k < 60 && term > 1e-17 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}

function lowpass(up, down) {
  const slower = Math.max(up, down), half = 32 * slower, cutoff = 0.91 / slower, beta = 9;
  const taps = Float64Array.from({ length: 2 * half + 1 }, (_, i) => {
    const t = i - half, x = Math.PI * cutoff * t;
    return cutoff * (t === 0 ? 1 : Math.sin(x) / x) * bessel0(beta * Math.sqrt(Math.max(1 - (t / half) ** 2, 0))) / bessel0(beta);
  });
  const total = taps.reduce((a, b) => a + b, 0);
  return taps.map((tap) => tap / total);
}

function ratioOf(x) { // the best fraction with a denominator of at most 1000
  let best = [1, 1], error = Infinity;
  for (let down = 1; down <= 1000; down++) {
    const up = Math.round(x * down), off = Math.abs(up / down - x);
    if (up > 0 && off < error - 1e-15) [best, error] = [[up, down], off];
  }
  return best;
}

export function resample(column, fromHz, toHz) {
  const [up, down] = ratioOf(toHz / fromHz);
  if (up === down) return column;
  if (Math.abs(up / down * fromHz / toHz - 1) * column.length * toHz / fromHz > 0.1)
    throw new Error(`${fromHz} Hz is no simple ratio to ${toHz} Hz; resample the file first`);
  const taps = lowpass(up, down), half = (taps.length - 1) / 2, n = column.length;
  const first = column[0], slope = (column[n - 1] - first) / (n - 1); // a line through both ends is taken off, and put back
  const out = new Float64Array(Math.ceil(n * up / down));
  for (let i = 0; i < out.length; i++) {
    const at = i * down; // place among the samples after `up` fold stuffing
    let sum = 0;
    const low = Math.max(Math.ceil((at - half) / up), 0), high = Math.min(Math.floor((at + half) / up), n - 1);
    for (let k = low; k <= high; k++) sum += (column[k] - first - slope * k) * taps[at - k * up + half];
    out[i] = sum * up + first + slope * at / up;
  }
  return out;
}

export function motionOf(segment, rate) { // root mean square over windows of 2 s of the vector's standard deviation, in g
  const length = Math.round(2 * rate), windows = Math.floor(segment.length / 3 / length);
  let total = 0;
  for (let w = 0; w < windows; w++)
    for (let c = 0; c < 3; c++) {
      let sum = 0, square = 0;
      const start = segment[3 * w * length + c];
      for (let t = 0; t < length; t++) {
        const value = segment[3 * (w * length + t) + c] - start;
        sum += value;
        square += value * value;
      }
      total += Math.max(square / length - (sum / length) ** 2, 0);
    }
  return Math.sqrt(total / windows);
}

export function prediction(embedding, motion, about) {
  const { readout, domain, heart } = about;
  const dot = (weights) => weights.reduce((sum, weight, i) => sum + weight * embedding[i], 0);
  const value = dot(readout.weights) + readout.intercept;
  const [low, high] = readout.spread_limits;
  const spread = Math.min(Math.max(Math.exp(dot(readout.spread_weights) + readout.spread_intercept), low), high);
  const half = readout.quantile === null ? Infinity : readout.quantile * spread;
  const columns = domain.directions.map((direction) => direction.reduce((sum, d, i) => sum + d * (embedding[i] - domain.mean[i]), 0));
  const distance = Math.sqrt(columns.reduce((sum, x) => sum + x * x, 0) / columns.length);
  let reason = "";
  if (distance > domain.distance_limit) reason = about.reasons.far;
  if (domain.motion_limit_g !== null && motion > domain.motion_limit_g) reason = about.reasons.motion;
  if (!reason && heart !== null && !(dot(heart.weights) > heart.limit)) reason = about.reasons.heart;
  if (!reason && Number.isFinite(half) && readout.constant_half_width !== null && half >= readout.constant_half_width) reason = about.reasons.wide;
  return { value: Math.max(value, 0), low: Number.isFinite(half) ? Math.max(value - half, 0) : -Infinity, high: Math.max(value + half, 0), reason, motion };
}
