// One table per dimension, and the single requests at the end of the way down.
import { html } from "../html.js";
import { useLoad, useShared } from "../loading.js";
import { Section, Table } from "../ui.js";
import { count, money, plural, time } from "../format.js";
import { MODES } from "../words.js";
import { MEASURES } from "./chart.js";
import { Download } from "./download.js";
import { DIMENSIONS, ask, rangeQuery, reportQuery } from "./question.js";

/** @typedef {import("./question.js").Question} Question */

const MOST = 50;

/** @param {{question: Question, dimension: string, onChoose: (dimension: string, value: string | null) => void}} props */
export function Breakdown({ question, dimension, onChoose }) {
  const { api, status } = useShared();
  const loaded = useLoad(() => ask(api, { ...reportQuery(question, "all", dimension), top: MOST }), [question, dimension, status.loaded.at]);
  const title = DIMENSIONS.find(([name]) => name === dimension)?.[1] ?? dimension;
  const rows = (loaded.data?.buckets ?? []).flatMap((it) => it.results).map((row) => {
    const value = row[dimension] === null || row[dimension] === undefined ? null : String(row[dimension]);
    const name = row.other ? "all others" : value ?? "(none)";
    return [row.other ? name : html`<button type="button" class="plain" onClick=${() => onChoose(dimension, value)}>${dimension === "usage_mode" ? MODES[name] ?? name : name}</button>`,
      MODES[row.usage_mode ?? ""] ?? "", MEASURES.cost.text(row), count(row.requests), count(row.output_tokens)];
  });
  return html`<${Section} title=${`By ${title.toLowerCase()}`} loaded=${loaded}>
    <${Table} caption=${`${title}, the most expensive first. Choose one to look into it.`} columns=${[title, "Mode", "Cost", "Requests", "Output tokens"]} rows=${rows} /></${Section}>`;
}

/** Single requests. @param {{question: Question, onBack: () => void}} props */
export function Rows({ question, onBack }) {
  const { api } = useShared();
  const range = rangeQuery(question);
  const loaded = useLoad(() => api.get("usage-events", { query: { ...range, limit: 100 } }).then((it) => it.data), [question]);
  const rows = loaded.data?.data ?? [];
  return html`<${Section} title="Requests" loaded=${loaded}>
    <button type="button" onClick=${onBack}>Back to the tables</button>
    <${Table} caption=${rows.length === 100 ? "The newest 100 requests" : `${plural(rows.length, "request")}, newest first`} columns=${["Started", "Mode", "Model", "Feature", "Session", "Prompt", "Cost", "Outcome"]}
      rows=${rows.map((it) => [time(it.started_at), MODES[it.usage_mode], it.model, it.feature ?? "", it.session_id ?? "", it.prompt_id ?? "", it.estimated_cost ? money(it.usage_mode === "byo" ? it.estimated_cost : it.billed_cost) : "no known price", it.outcome])} />
    <${Download} create=${() => api.exportUrl("usage-events.csv", { query: range })} /></${Section}>`;
}
