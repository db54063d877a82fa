// Statements: what Pharaoh bills for a month, and what it does not bill.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.js";
import { readAll, useLoad, useShared } from "../loading.js";
import { Section, Table } from "../ui.js";
import { count, money, plural, time, utcAndLocal } from "../format.js";
import { LINES, LINE_UNITS } from "../words.js";
import { Download } from "./download.js";

/** @typedef {import("../types.js").Statement} Statement */

export function Statements() {
  const { api } = useShared();
  const [month, setMonth] = useState(/** @type {string | null} */ (null));
  const loaded = useLoad(() => readAll(api, "billing-statements", {}, 200), []);
  const shown = loaded.data?.find((it) => it.month === month) ?? loaded.data?.[0];
  return html`<${Section} title="Statements" loaded=${loaded} empty=${loaded.data?.length === 0 ? html`<p>There is no statement yet.</p>` : null}>
    <ul class="plain-list months">${loaded.data?.map((it) => html`<li key=${it.month}>
      <button type="button" aria-current=${it === shown ? "true" : null} onClick=${() => setMonth(it.month)}>${it.month}: ${money(it.total)} (${it.status})</button></li>`)}</ul>
    ${shown ? html`<${OneMonth} statement=${shown} at=${loaded.at} />` : null}</${Section}>`;
}

/** @param {{statement: Statement, at: string | null}} props */
function OneMonth({ statement, at }) {
  const { api } = useShared();
  const { byo, unpriced_managed: unpriced } = statement.informational;
  return html`<article aria-label=${`Statement of ${statement.month}`}>
    <h3>${statement.month} (UTC)</h3>
    <p>${statement.status === "open" ? `Open, as of ${time(at)}. It may still change.` : `Closed ${utcAndLocal(statement.closed_at ?? "")}. It never changes.`}</p>
    ${statement.lines.length === 0 ? html`<p>Billed by Pharaoh: ${money(statement.total)}. There are no lines.</p>` : html`<${Table} caption=${`Billed by Pharaoh: ${money(statement.total)}`} columns=${["Line", "Quantity", "Unit price", "Amount"]}
      rows=${statement.lines.map((it) => [`${LINES[it.type] ?? it.type}${it.model ? `, ${it.model}` : ""}${it.adjusts_month ? `, of ${it.adjusts_month}` : ""}`, LINE_UNITS[it.type] ? plural(it.quantity, LINE_UNITS[it.type]) : count(it.quantity), money(it.unit_price), money(it.amount)])} />`}
    <div class="framed"><h4>For information, not billed</h4>
      ${byo.length === 0 && unpriced.length === 0 ? html`<p>There is no BYO usage, and no usage without a known price.</p>` : null}
      ${byo.length > 0 ? html`<${Table} caption="BYO usage: you pay Anthropic" columns=${["Model", "Requests", "Estimated at list prices"]}
        rows=${byo.map((it) => [it.model || "Others", count(it.requests), `${money(it.estimated_cost)}${it.unpriced_requests ? ` + ${count(it.unpriced_requests)} without a known price` : ""}`])} />` : null}
      ${unpriced.length > 0 ? html`<${Table} caption="Managed usage without a known price" columns=${["Model", "Requests"]} rows=${unpriced.map((it) => [it.model || "Others", count(it.requests)])} />` : null}</div>
    <${Download} create=${() => api.exportUrl("billing-statements/{month}.csv", { path: { month: statement.month } })} /></article>`;
}
