// One table per dimension, and the single requests at the end of the way down.
import { html } from "../html.js";
import { useLoad, useShared } from "../loading.js";
import { Results, Section, Table } from "../ui.js";
import { count, money, plural, time } from "../format.js";
import { MODES } from "../words.js";
import { MEASURES } from "./chart.js";
import { Download } from "./download.js";
import { ask, rangeQuery, reportQuery, titleOf } from "./question.js";

/** @typedef {import("./question.js").Question} Question */
/** @typedef {import("../types.js").ReportRow} ReportRow */

const MOST = 50;

/** @param {{question: Question, dimension: string, onChoose: (dimension: string, value: string | null) => void}} props */
export function Breakdown({ question, dimension, onChoose }) {
  const { api, status } = useShared();
  const loaded = useLoad(async () => ({ by: dimension, ...(await ask(api, { ...reportQuery(question, "all", dimension), top: MOST })) }), [question, dimension], [status.loaded.at]);
  // While another dimension loads, the rows are still those of the one before.
  const by = loaded.data?.by ?? dimension;
  const title = titleOf(by);
  const mode = /** @type {ReportRow["usage_mode"]} */ (question.filters.find((it) => it.dimension === "usage_mode")?.value ?? null);
  const rows = (loaded.data?.buckets ?? []).flatMap((it) => it.results).map((it) => {
    const row = /** @type {ReportRow} */ ({ ...it, usage_mode: it.usage_mode ?? mode });
    const value = row[by] === null || row[by] === undefined ? null : String(row[by]);
    const name = row.other ? "all others" : value ?? "(none)";
    return [row.other ? name : html`<button type="button" class="plain" onClick=${() => onChoose(by, value)}>${by === "usage_mode" ? MODES[name] ?? name : name}</button>`,
      MODES[row.usage_mode ?? ""] ?? "Both", costText(row), count(row.requests), count(row.output_tokens)];
  });
  return html`<${Section} title=${`By ${titleOf(dimension).toLowerCase()}`} loaded=${loaded}>
    <${Results} loaded=${loaded}><${Table} caption=${`${title}, the most expensive first. Choose one to look into it.`} columns=${[title, "Mode", "Cost", "Requests", "Output tokens"]} rows=${rows} /></${Results}></${Section}>`;
}

/** The rest of both modes: what is billed is known apart, what BYO usage costs is not. @param {ReportRow} row */
function costText(row) {
  const cost = row.other && !row.usage_mode ? `${money(row.billed_cost)} billed, without BYO` : MEASURES.cost.text(row);
  return row.unpriced_requests ? `${cost} + ${count(row.unpriced_requests)} without a known price` : cost;
}

/** Single requests. @param {{question: Question, onBack: () => void}} props */
export function Rows({ question, onBack }) {
  const { api } = useShared();
  const range = rangeQuery(question);
  const loaded = useLoad(() => api.get("usage-events", { query: { ...range, limit: 100 } }).then((it) => it.data), [question]);
  const rows = loaded.data?.data ?? [];
  return html`<${Section} title="Requests" loaded=${loaded}>
    <button type="button" onClick=${onBack}>Back to the tables</button>
    <${Results} loaded=${loaded}><${Table} caption=${rows.length === 100 ? "The newest 100 requests" : `${plural(rows.length, "request")}, newest first`} columns=${["Started", "Mode", "Model", "Feature", "Session", "Prompt", "Cost", "Outcome"]}
      rows=${rows.map((it) => [time(it.started_at), MODES[it.usage_mode], it.model, it.feature ?? "", it.session_id ?? "", it.prompt_id ?? "", it.estimated_cost ? money(it.usage_mode === "byo" ? it.estimated_cost : it.billed_cost) : "no known price", it.outcome])} /></${Results}>
    <${Download} create=${() => api.exportUrl("usage-events.csv", { query: range })} /></${Section}>`;
}
