// Overview: who pays, why work is stopped, the month so far, the switch.
import { html } from "../html.js";
import { useLoad, useShared } from "../loading.js";
import { Section } from "../ui.js";
import { money, plural, size, thisMonth } from "../format.js";
import { KeyForm } from "../key/key_form.js";
import { useState } from "../vendor/hooks.js";
import { Banner } from "./banner.js";
import { LimitBar } from "./limit_bar.js";
import { ModeSwitch } from "./mode_switch.js";

/** @param {{focus: string}} props */
export function Overview({ focus }) {
  const { status, may } = useShared();
  const [view, setView] = useState(focus);
  const hasKey = status.credentials.length > 0;
  return html`<${Section} title="Overview" loaded=${status.loaded}>
    <${Banner} onAddKey=${() => setView("add")} onSwitch=${() => setView("switch")} />
    ${view === "add" && html`<${KeyForm} onClose=${() => setView("")} />`}
    ${view === "switch" && html`<${ModeSwitch} onClose=${() => setView("")} />`}
    ${view === "" && may("credentials:write") && may("billing:write") ? html`<div class="buttons">
      ${hasKey ? null : html`<button type="button" class="primary" onClick=${() => setView("add")}>Use your own key</button>`}
      <button type="button" onClick=${() => setView("switch")}>Switch the usage mode</button></div>` : null}
    <${Month} /></${Section}>`;
}

/** The month so far: BYO and managed side by side, never one number. */
function Month() {
  const { api, may, go, status } = useShared();
  const month = thisMonth();
  const loaded = useLoad(async () => {
    const query = /** @type {const} */ ({ bucket_width: "all", "group_by[]": ["usage_mode"], starting_at: `${month}-01T00:00:00Z` });
    const [limits, usage, statement] = await Promise.all([
      api.get("spend-limits", { query: { limit: 100 } }).then((it) => it.data.data),
      may("usage:read") ? api.get("usage-report", { query: { ...query, "group_by[]": [...query["group_by[]"]] } }).then((it) => it.data) : null,
      api.get("billing-statements/{month}", { path: { month } }).then((it) => it.data),
    ]);
    return { limits, usage, statement };
  }, [month], [status.loaded.at]);
  const data = loaded.data;
  const fullest = [...(data?.limits ?? [])].sort((one, other) => fullness(other) - fullness(one));
  const rows = (data?.usage?.data ?? []).flatMap((it) => /** @type {import("../types.js").ReportRow[]} */ (it.results));
  return html`<${Section} title=${`This month (${month}, UTC)`} loaded=${loaded}>
    <div class="figures">
      ${["byo", "managed"].map((mode) => html`<${Figure} key=${mode} mode=${mode} row=${rows.find((it) => it.usage_mode === mode)} />`)}
      <p class="figure"><span>Statement so far</span><strong>${money(data?.statement.total)}</strong><span class="small">subscription, overage and managed usage</span></p></div>
    ${fullest.slice(0, 3).map((limit) => html`<${LimitBar} key=${limit.id} limit=${limit} />`)}
    ${data && data.limits.length > 3 ? html`<button type="button" onClick=${() => go("limits")}>All ${plural(data.limits.length, "limit")}</button>` : null}
  </${Section}>`;
}

/** A limit of nothing has no percentage, and is full. @param {import("../types.js").Limit} limit */
function fullness(limit) {
  return limit.percent_used ?? 1e9;
}

/** @param {{mode: string, row: import("../types.js").ReportRow | undefined}} props */
export function Figure({ mode, row }) {
  const zero = { amount: "0", currency: "USD" };
  const value = (mode === "byo" ? row?.estimated_cost : row?.billed_cost) ?? zero;
  return html`<p class=${`figure ${mode}`}><span>${mode === "byo" ? "BYO, estimated" : "Managed, billed"}</span>
    <strong>${size(value) === 0 ? "$0.00" : money(value)}</strong>
    <span class="small">${mode === "byo" ? "you pay Anthropic" : "Pharaoh bills you"}
      ${row?.unpriced_requests ? ` · + ${plural(row.unpriced_requests, "request")} without a known price` : ""}</span></p>`;
}
