// Reads a CSV file: three columns of acceleration, and the rate and the longest gap from a column of times.
// tests/export/test_page_table.py runs it in node.

const OTHER_SENSORS = /gyro|mag|grav|quat|rot|orient/i;

export function parse(text) {
  const lines = text.replace(/^\ufeff/, "").split(/\r?\n/).filter((line) => line.trim());
  if (lines.length < 2) throw new Error("The file has no rows.");
  const delimiter = [";", "\t", ","].find((sign) => lines[1].includes(sign)) ?? " ";
  const number = (cell) => (!cell ? NaN : Number(delimiter === "," ? cell : cell.replace(",", "."))); // Number("") is 0
  const cells = lines.map((line) => line.split(delimiter).map((cell) => cell.trim()));
  const header = cells[0].some((cell) => cell) && cells[0].every((cell) => Number.isNaN(number(cell))) ? cells.shift() : null;
  const width = cells[0].length;
  const named = header && ["x", "y", "z"].map((axis) => columnOf(header, axis));
  const axes = named && named.every((place) => place >= 0) ? named : width === 3 ? [0, 1, 2] : width === 4 && !header ? [1, 2, 3] : null;
  if (!axes) throw new Error("The columns x, y and z are not clear. Name them x, y, z in the first line.");
  const columns = axes.map((place) => Float64Array.from(cells, (row) => number(row[place])));
  const bad = cells.findIndex((_, i) => columns.some((column) => !Number.isFinite(column[i])));
  if (bad >= 0) throw new Error(`Row ${bad + 1 + (header ? 1 : 0)} has a cell that is not a number.`);
  const timeColumn = header ? header.findIndex((name) => /time|^t$|stamp/i.test(name)) : width === 4 ? 0 : -1;
  if (timeColumn < 0) return { columns, measured: null, gap: 0 };
  const asNumbers = cells.map((row) => number(row[timeColumn]));
  const times = asNumbers.every(Number.isFinite) ? asNumbers : cells.map((row) => Date.parse(row[timeColumn]));
  return { columns, ...timed(times) };
}

function columnOf(header, axis) { // the place of an axis of the acceleration; -1 if no column has its name
  const ending = new RegExp(`(^|[^a-z])(a|acc|accel)?[ _]?${axis}$`, "i"), alone = new RegExp(`^(a[ _]?)?${axis}$`, "i");
  const names = header.map((name) => name.replace(/[([].*/, "").trim());
  const found = names.map((_, i) => i).filter((i) => ending.test(names[i]) && (/acc/i.test(names[i]) || !OTHER_SENSORS.test(names[i])));
  const sure = [(i) => /acc/i.test(names[i]), (i) => alone.test(names[i])].map((rule) => found.filter(rule)).find((places) => places.length) ?? found;
  if (sure.length > 1) throw new Error(`Several columns may be ${axis}: ${sure.map((i) => header[i]).join(", ")}. Leave one of them.`);
  return sure.length ? sure[0] : -1;
}

// Samples per second (null if the times do not tell) and the longest gap in samples. A packet's samples may share a time.
export function timed(times) {
  const unknown = { measured: null, gap: 0 };
  if (!times.every(Number.isFinite)) return unknown;
  const steps = times.slice(1).map((time, i) => time - times[i]);
  const back = steps.findIndex((step) => step < 0);
  if (back >= 0) throw new Error(`The times decrease after sample ${back + 1}.`);
  const positive = steps.filter((step) => step > 0).sort((a, b) => a - b);
  if (!positive.length || steps.every((step) => step === 1)) return unknown; // ones count rows
  const usual = positive[positive.length >> 1], end = times.indexOf(times[times.length - 1]); // the last packet's first sample
  const without = steps.slice(0, end).filter((step) => step <= 2.5 * usual);
  const step = without.reduce((a, b) => a + b, 0) / without.length, longest = positive[positive.length - 1];
  const fits = [1, 1e3, 1e6, 1e9].map((per) => per / step).filter((hz) => hz >= 5 && hz < 2000);
  return { measured: fits.length === 1 ? fits[0] : null, gap: longest > 2.5 * usual ? longest / step : 0 };
}

// The rate to use; refuses a given rate that the times contradict, and a gap of more than a second.
export function rateOf({ measured, gap }, given) {
  if (given && measured && Math.abs(measured / given - 1) > 0.02) throw new Error(`The time column says ${measured.toPrecision(4)} Hz, not ${given}.`);
  const rate = given || measured;
  if (rate && gap / rate > 1) throw new Error(`The recording has a gap of ${(gap / rate).toFixed(1)} s. Cut the file there; the page reads recordings without gaps.`);
  return rate;
}
