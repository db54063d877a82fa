// Activity: the audit log as sentences.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.js";
import { readAll, useLoad, useShared } from "../loading.js";
import { Choice, Failure, Section, Table } from "../ui.js";
import { time } from "../format.js";
import { ACTIONS } from "../words.js";

/** @typedef {import("../types.js").AuditEvent} AuditEvent */
/** @typedef {NonNullable<NonNullable<import("../api_types.js").Parts<"get", "audit-events">["query"]>["action"]>} Action */

/** @param {{focus: string}} props the id of a credential, or nothing */
export function Activity({ focus }) {
  const { api, status, may } = useShared();
  const [credential, setCredential] = useState(focus);
  const [action, setAction] = useState(/** @type {Action | ""} */ (""));
  const [more, setMore] = useState({ events: /** @type {AuditEvent[]} */ ([]), page: "", error: /** @type {any} */ (null) });
  const isFiltered = credential !== "" || action !== "";
  const read = (/** @type {string} */ page) => {
    const filters = { credential_id: credential || undefined, action: action === "" ? undefined : action };
    return api.get("audit-events", { query: { limit: 50, ...filters, page: page || undefined } }).then((it) => it.data);
  };
  const loaded = useLoad(async () => {
    const first = await read("");
    setMore({ events: [], page: first.next_page ?? "", error: null });
    return first;
  }, [credential, action]);
  const deleted = useLoad(async () => (may("credentials:read") ? readAll(api, "provider-credentials", { query: { state: "deleted" } }) : []), []);
  const known = [...status.credentials, ...(deleted.data ?? [])];
  const label = (/** @type {string | null} */ id) => known.find((it) => it.id === id)?.label ?? "";
  const next = () =>
    read(more.page).then(
      (found) => setMore((before) => ({ events: [...before.events, ...found.data], page: found.next_page ?? "", error: null })),
      (error) => setMore((before) => ({ ...before, error })),
    );
  const events = [...(loaded.data?.data ?? []), ...more.events];
  return html`<${Section} title="Activity" loaded=${loaded}>
    <div class="filters"><${Choice} label="Key" value=${credential} onChange=${setCredential} options=${[["", "All"], ...known.map((it) => [it.id, `${it.label}${it.state === "deleted" ? " (removed)" : ""}`])]} />
      <${Choice} label="What" value=${action} onChange=${setAction} options=${[["", "Everything"], ...Object.entries(ACTIONS)]} /></div>
    ${events.length === 0 ? html`<p>${isFiltered ? "Nothing matches." : "Nothing was done yet."}</p>` : html`<${Table} caption="Newest first" columns=${["When", "What", "Details", "Request id"]}
      rows=${events.map((it) => [time(it.occurred_at), sentence(it, label(it.credential_id)), details(it), html`<code class="small wrap">${it.request_id ?? ""}</code>`])} />`}
    ${more.page ? html`<button type="button" onClick=${next}>Show older</button>` : null}<${Failure} error=${more.error} /></${Section}>`;
}

/** A sentence per action; unknown ones by code. @param {AuditEvent} event @param {string} label */
function sentence(event, label) {
  return `${event.actor} ${ACTIONS[event.action] ?? event.action}${label ? `: ${label}` : ""}`;
}

/** @param {AuditEvent} event */
function details(event) {
  return Object.entries(event.details).filter(([, value]) => value !== null).map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`).join(", ");
}
