// Runs the exported student on a recording: resample, cut, embed, read out, draw.
import { motionOf, prediction, resample } from "./signal.js";
import { parse, rateOf, timed } from "./table.js";

const about = await (await fetch("about.json")).json();
const $ = (id) => document.getElementById(id);
const { rate_hz: RATE, samples: SAMPLES } = about;

// Files.

function checked(columns, rate) {
  if (!(rate >= 1 && rate <= 4000)) throw new Error("Give the samples per second.");
  const n = columns[0].length;
  if (n / rate < SAMPLES / RATE) throw new Error(`The recording lasts ${(n / rate).toFixed(0)} s, a minute is needed.`);
  const lengths = Float64Array.from(columns[0], (x, i) => Math.hypot(x, columns[1][i], columns[2][i])).sort();
  const rest = lengths[n >> 1];
  if (!(rest > 0.8 && rest < 1.25))
    throw new Error(`Acceleration at rest is ${rest.toPrecision(3)} g with this unit, but gravity is 1 g. Choose another unit, or a file with gravity.`);
}

async function predict(columns, rate, session) {
  checked(columns, rate);
  const grid = columns.map((column) => resample(column, rate, RATE));
  const minutes = Math.floor(grid[0].length / SAMPLES), results = [];
  for (let m = 0; m < minutes; m++) {
    const segment = new Float32Array(3 * SAMPLES);
    for (let t = 0; t < SAMPLES; t++) for (let c = 0; c < 3; c++) segment[3 * t + c] = grid[c][m * SAMPLES + t];
    const { embedding } = await session.run({ signal: new ort.Tensor("float32", segment, [1, SAMPLES, 3]) });
    results.push(prediction(embedding.data, motionOf(segment, RATE), about));
  }
  return { results, grid };
}

// Drawing.

function frame(canvas, { xMax, yMin, yMax, title, unit }) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 960, height = Math.max(width * 0.28, 170);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const draw = canvas.getContext("2d");
  draw.scale(ratio, ratio);
  draw.font = "12px system-ui, sans-serif";
  const left = 48, right = width - 14, top = 24, bottom = height - 28;
  const x = (value) => left + (value / xMax) * (right - left), y = (value) => bottom - ((value - yMin) / (yMax - yMin)) * (bottom - top);
  draw.fillStyle = "#222";
  draw.fillText(title, left, 14);
  draw.fillText("minutes", right - 44, height - 4);
  draw.strokeStyle = "#ddd";
  for (let i = 0; i <= 4; i++) {
    const value = yMin + ((yMax - yMin) * i) / 4;
    draw.fillStyle = "#666";
    draw.fillText(Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3), 4, y(value) + 4);
    draw.beginPath();
    draw.moveTo(left, y(value));
    draw.lineTo(right, y(value));
    draw.stroke();
  }
  for (let i = 0; i <= xMax; i += Math.max(1, Math.round(xMax / 8))) draw.fillText(String(i), x(i) - 3, bottom + 16);
  return { draw, x, y, left, right, top, bottom };
}

function show({ results, grid }) {
  $("result").hidden = false;
  const known = results.filter((r) => !r.reason), n = results.length;
  const mean = known.reduce((sum, r) => sum + r.value, 0) / known.length;
  $("headline").textContent = known.length ? `${about.words}: ${mean.toFixed(0)} ${about.unit} (${known.length} of ${n} minutes answered)` : `None of ${n} minutes can be answered`;
  const ends = known.length ? known : results;
  const low = Math.min(...ends.map((r) => (Number.isFinite(r.low) ? r.low : r.value))) - 3, high = Math.max(...ends.map((r) => (Number.isFinite(r.high) ? r.high : r.value))) + 3;
  const heart = frame($("heart"), { xMax: n, yMin: low, yMax: high, title: `${about.words} (${about.unit}), interval of ${100 * about.level} %; grey: unknown` });
  results.forEach((r, i) => {
    const { draw, x, y, top, bottom } = heart, at = x(i + 0.5);
    if (r.reason) {
      draw.fillStyle = "#eee";
      draw.fillRect(x(i), top, x(i + 1) - x(i), bottom - top);
      return;
    }
    draw.strokeStyle = "#e69f00";
    draw.lineWidth = 3;
    draw.beginPath();
    draw.moveTo(at, y(Math.max(r.low, low)));
    draw.lineTo(at, y(Math.min(r.high, high)));
    draw.stroke();
    draw.fillStyle = "#0072b2";
    draw.beginPath();
    draw.arc(at, y(r.value), 4, 0, 7);
    draw.fill();
  });
  const means = grid.map((column) => column.reduce((a, b) => a + b, 0) / column.length);
  const spread = 1000 * Math.max(...grid.map((column, c) => [...column].map((v) => Math.abs(v - means[c])).sort((a, b) => a - b)[Math.floor(0.995 * column.length)]));
  const plot = frame($("signal"), { xMax: n, yMin: -spread, yMax: spread, title: "Acceleration − mean (mg): x, y, z" });
  grid.forEach((column, c) => {
    plot.draw.strokeStyle = ["#0072b2", "#e69f00", "#009e73"][c];
    plot.draw.lineWidth = 0.7;
    plot.draw.beginPath();
    const step = Math.max(1, Math.floor(column.length / 4000));
    for (let i = 0; i < column.length; i += step) {
      const value = Math.min(Math.max(1000 * (column[i] - means[c]), -spread), spread);
      plot.draw.lineTo(plot.x(i / SAMPLES), plot.y(value));
    }
    plot.draw.stroke();
  });
  $("rows").replaceChildren(...results.map((r, i) => {
    const row = document.createElement("tr");
    const texts = [String(i + 1), r.reason ? "unknown" : r.value.toFixed(1), r.reason ? "" : `${r.low.toFixed(0)} to ${r.high.toFixed(0)}`, (1000 * r.motion).toFixed(1), r.reason];
    row.append(...texts.map((text, k) => Object.assign(document.createElement("td"), { textContent: text, className: k === 4 ? "reason" : "" })));
    return row;
  }));
  document.body.dataset.values = JSON.stringify(results);
}

// The page.

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").className = isError ? "error" : "";
}

$("people").textContent = about.people;
$("label").textContent = `${about.words} (${about.unit})`;
let session = null;
try {
  ort.env.wasm.numThreads = 1;
  session = await ort.InferenceSession.create("encoder.onnx", { executionProviders: ["wasm"] });
  say("Ready.");
} catch (error) {
  say(`The encoder cannot be loaded: ${error.message}. Serve this folder by a web server, such as python -m http.server.`, true);
}

async function run(read) {
  say("Working.");
  try {
    const { columns, rate } = await read();
    show(await predict(columns, rate, session));
    say("Done.");
  } catch (error) {
    say(error.message, true);
  }
}

const readFile = (text) => run(async () => {
  const { columns, ...times } = parse(text), scale = Number($("unit").value);
  return { columns: columns.map((column) => column.map((value) => value * scale)), rate: rateOf(times, Number($("rate").value)) };
});

$("choose").onclick = () => $("file").click();
$("file").onchange = async () => readFile(await $("file").files[0].text());
$("drop").ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
$("drop").ondragleave = () => $("drop").classList.remove("over");
$("drop").ondrop = async (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  readFile(await event.dataTransfer.files[0].text());
};
const sample = async (name, rate, unit) => {
  $("rate").value = rate;
  $("unit").value = unit;
  await readFile(await (await fetch(name)).text());
};
$("sample").onclick = () => sample("sample.csv", "", "1");

if ("DeviceMotionEvent" in window && navigator.maxTouchPoints > 0) {
  $("record").hidden = false;
  $("record").onclick = async () => {
    if (typeof DeviceMotionEvent.requestPermission === "function" && (await DeviceMotionEvent.requestPermission()) !== "granted")
      return say("The phone does not allow it.", true);
    const rows = [], start = performance.now();
    const keep = ({ accelerationIncludingGravity: a }) => {
      rows.push([performance.now() - start, a.x, a.y, a.z]);
      const left = 62 - rows[rows.length - 1][0] / 1000;
      if (left > 0) return say(`Keep still: ${left.toFixed(0)} s left.`);
      window.removeEventListener("devicemotion", keep);
      run(async () => ({
        columns: [1, 2, 3].map((c) => Float64Array.from(rows, (row) => row[c] / 9.80665)),
        rate: rateOf(timed(rows.map((row) => row[0])), 0),
      }));
    };
    window.addEventListener("devicemotion", keep);
  };
}
// index.html?sample shows the simulated recording, ?sample=FILE&rate=50&unit=0.001 another file of this folder
const query = new URLSearchParams(location.search);
if (query.has("sample")) await sample(query.get("sample") || "sample.csv", query.get("rate") ?? "", query.get("unit") ?? "1");
