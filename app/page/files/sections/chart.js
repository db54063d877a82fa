// Stacked bars as SVG over a scale, with a text for readers and arrow keys. Lengths are drawn; numbers are the server's.
import { html } from "../html.js";
import { useId, useState } from "../vendor/hooks.js";
import { compact, dateIn, isolated, money, moneyMark, plural, size } from "../format.js";
import { MODES } from "../words.js";

/** @typedef {import("../types.js").Bucket} Bucket */
/** @typedef {import("../types.js").ReportRow} ReportRow */

const HEIGHT = 120;
const COLOURS = 6;
const MOST_STEPS = 4;

/** @type {Record<string, {title: string, size: (row: ReportRow) => number, text: (row: ReportRow) => string, mark?: typeof moneyMark}>} */
export const MEASURES = {
  cost: { title: "Cost", size: (row) => size(costOf(row)), text: (row) => money(costOf(row)), mark: moneyMark },
  requests: { title: "Requests", size: (row) => row.requests, text: (row) => plural(row.requests, "request") },
  output: { title: "Output tokens", size: (row) => row.output_tokens, text: (row) => `${compact(row.output_tokens)} tokens` },
  input: { title: "Uncached input tokens", size: (row) => row.uncached_input_tokens, text: (row) => `${compact(row.uncached_input_tokens)} tokens` },
};

/** What Pharaoh bills for managed usage; an estimate for BYO usage. @param {ReportRow} row */
export function costOf(row) {
  return row.usage_mode === "byo" ? row.estimated_cost : row.billed_cost;
}

/** The name of a row's part of a bar. BYO and managed are never one part. @param {ReportRow} row @param {string} dimension */
export function seriesOf(row, dimension) {
  const mode = MODES[row.usage_mode ?? ""] ?? "";
  if (dimension === "usage_mode") return mode;
  const value = row.other ? "others" : isolated(String(row[dimension] ?? "(none)"));
  return `${value} · ${mode}`;
}

/** @param {{days: Bucket[], dimension: string, measure: string, zone: string, isPartial: (day: Bucket) => boolean}} props */
export function Chart({ days, dimension, measure, zone, isPartial }) {
  const hatch = useId();
  const [at, setAt] = useState(days.length - 1);
  const { size: sizeOf, text, title, mark } = MEASURES[measure];
  const names = [...new Set(days.flatMap((day) => day.results.map((row) => seriesOf(row, dimension))))].sort();
  const tallest = Math.max(0, ...days.map((day) => day.results.reduce((sum, row) => sum + sizeOf(row), 0)));
  const { step, steps } = scaleOf(tallest, !mark);
  const marks = Array.from({ length: steps + 1 }, (_, index) => index * step).reverse();
  const width = 100 / days.length;
  const top = (/** @type {Bucket} */ it) => stack(it, names, dimension, sizeOf, step * steps).at(-1)?.end ?? 0;
  const day = days[Math.min(at, days.length - 1)];
  const move = (/** @type {KeyboardEvent} */ event) => {
    const step = /** @type {Record<string, number>} */ ({ ArrowLeft: -1, ArrowRight: 1, Home: -days.length, End: days.length })[event.key];
    if (!step) return;
    event.preventDefault();
    setAt(Math.min(Math.max(at + step, 0), days.length - 1));
  };
  return html`<figure class="chart">
    <figcaption>${title}${mark ? " in USD" : ""} per day, ${zone}. Arrow keys move between the days.</figcaption>
    <div class="plot"><p class="scale small" aria-hidden="true">${marks.map((it) => html`<span key=${it}>${mark ? mark(it, step) : compact(it)}</span>`)}</p>
    <svg viewBox=${`0 0 100 ${HEIGHT}`} preserveAspectRatio="none" tabindex="0" role="img" onKeyDown=${move}
      aria-label=${`${title} per day from ${dateIn(days[0].starting_at, zone)} to ${dateIn(days[days.length - 1].starting_at, zone)}. The table below has the same numbers.`}>
      <defs><pattern id=${hatch} width="1" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch" width="0.4" height="6" /></pattern></defs>
      ${marks.map((_, index) => html`<line key=${index} class="grid" x2="100" y1=${(index / steps) * HEIGHT} y2=${(index / steps) * HEIGHT} vector-effect="non-scaling-stroke" />`)}
      ${days.map((it, index) => html`<g key=${it.starting_at} class=${it === day ? "chosen" : ""} onClick=${() => setAt(index)}>
        <rect class="hit" x=${index * width} y="0" width=${width} height=${HEIGHT} />
        ${stack(it, names, dimension, sizeOf, step * steps).map((part) => html`<rect key=${part.name} class=${part.colour} data-series=${part.name}
          x=${index * width + width * 0.1} width=${width * 0.8} y=${HEIGHT - part.end} height=${part.end - part.start} />`)}
        ${isPartial(it) ? html`<rect x=${index * width + width * 0.1} width=${width * 0.8} y=${HEIGHT - top(it)} height=${top(it)} fill=${`url(#${hatch})`} />` : null}</g>`)}
    </svg>
    <p class="ends small" aria-hidden="true"><span>${dateIn(days[0].starting_at, zone)}</span><span>${dateIn(days[days.length - 1].starting_at, zone)}</span></p></div>
    <p class="reading" role="status">${dateIn(day.starting_at, zone)}${isPartial(day) ? " (so far)" : ""}: ${day.results.map((row) => `${seriesOf(row, dimension)} ${text(row)}`).join("; ") || "no usage"}</p>
    <ul class="legend">${names.slice(0, 24).map((name, index) => html`<li key=${name}><span class=${`swatch ${colourOf(name, index)}`}></span> ${name}</li>`)}</ul>
    ${names.length > COLOURS ? html`<p class="small">Colors repeat. The table has every part.</p>` : null}
  </figure>`;
}

/** A scale that holds `tallest` in at most four rounded steps. @param {number} tallest @param {boolean} isWhole */
export function scaleOf(tallest, isWhole) {
  const most = tallest || 1;
  for (let power = Math.floor(Math.log10(most)) - 1; ; power++) {
    const step = [1, 2, 2.5, 5].map((it) => it * 10 ** power).find((it) => most <= it * MOST_STEPS && !(isWhole && it % 1));
    if (step) return { step, steps: Math.ceil(most / step - 1e-9) };
  }
}

/** @param {Bucket} day @param {string[]} names @param {string} dimension @param {(row: ReportRow) => number} sizeOf @param {number} top of the scale */
function stack(day, names, dimension, sizeOf, top) {
  let start = 0;
  return names.flatMap((name, index) => {
    const row = day.results.find((it) => seriesOf(it, dimension) === name);
    if (!row) return [];
    const end = start + (sizeOf(row) / top) * HEIGHT;
    const part = { name, start, end, colour: colourOf(name, index) };
    start = end;
    return [part];
  });
}

/** @param {string} name @param {number} index */
function colourOf(name, index) {
  if (name === MODES.byo) return "byo";
  return name === MODES.managed ? "managed" : `series-${index % COLOURS}`;
}
