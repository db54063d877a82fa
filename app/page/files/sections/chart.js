// Stacked bars as SVG, with a text for readers and arrow keys. Lengths are drawn; numbers are the server's.
import { html } from "../html.js";
import { useId, useState } from "../vendor/hooks.js";
import { compact, dateIn, money, plural, size } from "../format.js";
import { MODES } from "../words.js";

/** @typedef {import("../types.js").Bucket} Bucket */
/** @typedef {import("../types.js").ReportRow} ReportRow */

const HEIGHT = 120;
const COLOURS = 6;

/** @type {Record<string, {title: string, size: (row: ReportRow) => number, text: (row: ReportRow) => string}>} */
export const MEASURES = {
  cost: { title: "Cost", size: (row) => size(costOf(row)), text: (row) => money(costOf(row)) },
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
  const value = row.other ? "others" : row[dimension] ?? "(none)";
  return `${value} · ${mode}`;
}

/** @param {{days: Bucket[], dimension: string, measure: string, zone: string, isPartial: (day: Bucket) => boolean}} props */
export function Chart({ days, dimension, measure, zone, isPartial }) {
  const hatch = useId();
  const [at, setAt] = useState(days.length - 1);
  const { size: sizeOf, text, title } = MEASURES[measure];
  const names = [...new Set(days.flatMap((day) => day.results.map((row) => seriesOf(row, dimension))))].sort();
  const tallest = Math.max(...days.map((day) => day.results.reduce((sum, row) => sum + sizeOf(row), 0)), 0.000001);
  const width = 100 / days.length;
  const top = (/** @type {Bucket} */ it) => stack(it, names, dimension, sizeOf, tallest).at(-1)?.end ?? 0;
  const day = days[Math.min(at, days.length - 1)];
  const move = (/** @type {KeyboardEvent} */ event) => {
    const step = /** @type {Record<string, number>} */ ({ ArrowLeft: -1, ArrowRight: 1, Home: -days.length, End: days.length })[event.key];
    if (!step) return;
    event.preventDefault();
    setAt(Math.min(Math.max(at + step, 0), days.length - 1));
  };
  return html`<figure class="chart">
    <figcaption>${title} per day, ${zone}. Arrow keys move between the days.</figcaption>
    <svg viewBox=${`0 0 100 ${HEIGHT}`} preserveAspectRatio="none" tabindex="0" role="img" onKeyDown=${move}
      aria-label=${`${title} per day from ${dateIn(days[0].starting_at, zone)} to ${dateIn(days[days.length - 1].starting_at, zone)}. The table below has the same numbers.`}>
      <defs><pattern id=${hatch} width="1" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch" width="0.4" height="6" /></pattern></defs>
      ${days.map((it, index) => html`<g key=${it.starting_at} class=${it === day ? "chosen" : ""} onClick=${() => setAt(index)}>
        <rect class="hit" x=${index * width} y="0" width=${width} height=${HEIGHT} />
        ${stack(it, names, dimension, sizeOf, tallest).map((part) => html`<rect key=${part.name} class=${part.colour} data-series=${part.name}
          x=${index * width + width * 0.1} width=${width * 0.8} y=${HEIGHT - part.end} height=${part.end - part.start} />`)}
        ${isPartial(it) ? html`<rect x=${index * width + width * 0.1} width=${width * 0.8} y=${HEIGHT - top(it)} height=${top(it)} fill=${`url(#${hatch})`} />` : null}</g>`)}
    </svg>
    <p class="ends small" aria-hidden="true"><span>${dateIn(days[0].starting_at, zone)}</span><span>${dateIn(days[days.length - 1].starting_at, zone)}</span></p>
    <p class="reading" role="status">${dateIn(day.starting_at, zone)}${isPartial(day) ? " (so far)" : ""}: ${day.results.map((row) => `${seriesOf(row, dimension)} ${text(row)}`).join("; ") || "no usage"}</p>
    <ul class="legend">${names.slice(0, 24).map((name, index) => html`<li key=${name}><span class=${`swatch ${colourOf(name, index)}`}></span> ${name}</li>`)}</ul>
  </figure>`;
}

/** @param {Bucket} day @param {string[]} names @param {string} dimension @param {(row: ReportRow) => number} sizeOf @param {number} tallest */
function stack(day, names, dimension, sizeOf, tallest) {
  let start = 0;
  return names.flatMap((name, index) => {
    const row = day.results.find((it) => seriesOf(it, dimension) === name);
    if (!row) return [];
    const end = start + (sizeOf(row) / tallest) * (HEIGHT - 4);
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
