// Usage: two figures that are never one, a chart, a table of the same numbers, and the way down to single requests.
import { html } from "../html.js";
import { useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
import { useLoad, useShared } from "../loading.js";
import { Choice, Field, Results, Section, Table } from "../ui.js";
import { LOCAL_ZONE, count, dateIn, isolated, time } from "../format.js";
import { MODES } from "../words.js";
import { Figure } from "./overview.js";
import { Chart, MEASURES, seriesOf } from "./chart.js";
import { Download } from "./download.js";
import { BELOW, DIMENSIONS, addDays, ask, reportQuery, titleOf } from "./question.js";
import { Breakdown, Rows } from "./breakdown.js";

/** @typedef {import("./question.js").Filter} Filter */

const ZONES = [...new Set(["UTC", LOCAL_ZONE, "Europe/Berlin", "America/New_York", "America/Los_Angeles", "Asia/Kolkata", "Asia/Tokyo"])];
const STACKS = DIMENSIONS.slice(0, 4);
// Outside are years that are not typed to their end.
const [EARLIEST, LATEST] = ["2020-01-01", "9999-12-31"];

/** @param {{focus: string}} props */
export function Usage({ focus }) {
  const { api, status } = useShared();
  const [zone, setZone] = useState(LOCAL_ZONE);
  const today = dateIn(new Date().toISOString(), zone);
  const [range, setRange] = useState(() => ({ from: addDays(today, -29), to: today }));
  const [typed, setTyped] = useState(range);
  const [stacked, setStacked] = useState("usage_mode");
  const [measure, setMeasure] = useState("cost");
  const [filters, setFilters] = useState(() => filtersOf(focus));
  const [down, setDown] = useState("feature");
  const question = useMemo(() => ({ ...range, zone, filters }), [range, zone, filters]);
  const loaded = useLoad(async () => {
    const [daily, totals] = await Promise.all([
      ask(api, { ...reportQuery(question, "1d", stacked), include_empty: true }),
      ask(api, reportQuery(question, "all", "usage_mode")),
    ]);
    return { question, stacked, days: daily.buckets, at: daily.at, totals: totals.buckets.flatMap((it) => it.results) };
  }, [question, stacked], [status.loaded.at]);
  const data = loaded.data;
  const [place, move] = useMovedFocus();
  const type = (/** @type {string} */ bound) => (/** @type {any} */ { currentTarget: { value } }) => {
    const next = { ...typed, [bound]: value };
    setTyped(next);
    if (EARLIEST <= next.from && next.from <= next.to && next.to <= LATEST) setRange(next);
  };
  const choose = (/** @type {string} */ dimension, /** @type {string | null} */ value) => {
    setFilters([...filters.filter((it) => it.dimension !== dimension), { dimension, value }]);
    setDown(BELOW[dimension] ?? "rows");
    move("down");
  };
  const remove = (/** @type {Filter} */ filter) => (setFilters(filters.filter((it) => it !== filter)), move("top"));
  const back = () => (setDown("feature"), move("down"));
  return html`<${Section} title="Usage" loaded=${loaded}>
    <div class="filters">
      <${Field} label="From" type="date" value=${typed.from} min=${EARLIEST} max=${LATEST} onChange=${type("from")} />
      <${Field} label="To" type="date" value=${typed.to} min=${EARLIEST} max=${LATEST} onChange=${type("to")}
        error=${typed.from !== range.from || typed.to !== range.to ? `Not a range. Shown: ${range.from} to ${range.to}.` : null} />
      <${Choice} label="Time zone" value=${zone} onChange=${setZone} options=${ZONES.map((it) => [it, it])} />
      <${Choice} label="Stacked by" value=${stacked} onChange=${setStacked} options=${STACKS} />
      <${Choice} label="Measure" value=${measure} onChange=${setMeasure} options=${Object.entries(MEASURES).map(([name, it]) => [name, it.title])} /></div>
    <${Chips} filters=${filters} onRemove=${remove} />
    <${Results} loaded=${loaded}>
    <div class="figures">${["byo", "managed"].map((mode) => html`<${Figure} key=${mode} mode=${mode} row=${data?.totals.find((it) => it.usage_mode === mode)} />`)}</div>
      ${data?.totals.length ? html`<${Days} data=${data} measure=${measure} />` : html`<p>There is no usage in this range.</p>`}</${Results}>
    <div ref=${place}>${!data?.totals.length ? null : down === "rows" ? html`<${Rows} question=${question} onBack=${back} />`
      : html`<${Choice} label="Break down by" value=${down} onChange=${setDown} options=${DIMENSIONS} />
        <${Breakdown} question=${question} dimension=${down} onChoose=${choose} />`}</div>
    <p class="small">As of ${time(data?.at)}. BYO usage is an estimate at list prices: your invoice comes from Anthropic.</p></${Section}>`;
}

/**
 * A button that leaves the document gives its focus to the heading of what is shown next, or of the section.
 * @returns {[{current: HTMLElement | null}, (to: "down" | "top") => void]}
 */
function useMovedFocus() {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const [moved, setMoved] = useState({ to: "" });
  useLayoutEffect(() => {
    const from = moved.to === "down" ? place.current : moved.to === "top" ? place.current?.parentElement : null;
    from?.querySelector("h2")?.focus();
  }, [moved]);
  return [place, (to) => setMoved({ to })];
}

/** `key_version:CREDENTIAL:VERSION`, or nothing. @param {string} focus @returns {Filter[]} */
function filtersOf(focus) {
  const [what, credential, version] = focus.split(":");
  return what === "key_version" ? [{ dimension: "credential_id", value: credential }, { dimension: "key_version", value: version }] : [];
}

/** @param {{filters: Filter[], onRemove: (filter: Filter) => void}} props */
function Chips({ filters, onRemove }) {
  if (filters.length === 0) return null;
  return html`<ul class="chips" aria-label="Filters">${filters.map((it) => {
    const text = `${titleOf(it.dimension)}: ${(it.dimension === "usage_mode" && MODES[it.value ?? ""]) || isolated(it.value ?? "(none)")}`;
    return html`<li key=${it.dimension}>
    <button type="button" aria-label=${`${text}, remove this filter`} onClick=${() => onRemove(it)}>${text} <span aria-hidden="true">✕</span></button></li>`;
  })}</ul>`;
}

/** @param {{data: any, measure: string}} props */
function Days({ data, measure }) {
  const { api } = useShared();
  const { question, stacked, days } = data;
  const isPartial = (/** @type {{ending_at: string}} */ day) => Date.parse(day.ending_at) > Date.parse(data.at);
  const rows = days.flatMap((/** @type {import("../types.js").Bucket} */ day) => day.results.map((row) => [
    `${dateIn(day.starting_at, question.zone)}${isPartial(day) ? " (so far)" : ""}`, seriesOf(row, stacked), MEASURES.cost.text(row), count(row.requests),
    count(row.uncached_input_tokens), count(row.output_tokens), row.unpriced_requests ? count(row.unpriced_requests) : ""]));
  return html`<${Chart} days=${days} dimension=${stacked} measure=${measure} zone=${question.zone} isPartial=${isPartial} />
    <details><summary>Table of the same numbers</summary>
      <${Table} caption=${`Usage per day, ${question.zone}`} columns=${["Day", "Part", "Cost", "Requests", "Uncached input", "Output", "Without a price"]} rows=${rows} /></details>
    <${Download} create=${() => api.exportUrl("usage-report.csv", { query: reportQuery(question, "1d", stacked) })} />`;
}
