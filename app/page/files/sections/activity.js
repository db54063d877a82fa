// Activity: the audit log as sentences.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.js";
import { readAll, useLoad, useShared, useWrite } from "../loading.js";
import { Choice, Outcome, Results, Section, Table } from "../ui.js";
import { isolated, plural, time } from "../format.js";
import { ACTIONS } from "../words.js";

/** @typedef {import("../types.js").AuditEvent} AuditEvent */
/** @typedef {NonNullable<NonNullable<import("../api_types.js").Parts<"get", "audit-events">["query"]>["action"]>} Action */

/** @param {{focus: string}} props the id of a credential, or nothing */
export function Activity({ focus }) {
  const { api, status, may } = useShared();
  const [credential, setCredential] = useState(focus);
  const [action, setAction] = useState(/** @type {Action | ""} */ (""));
  const [older, setOlder] = useState({ of: /** @type {unknown} */ (null), events: /** @type {AuditEvent[]} */ ([]), page: "" });
  const write = useWrite();
  const read = (/** @type {string} */ page) => {
    const filters = { credential_id: credential || undefined, action: action === "" ? undefined : action };
    return api.get("audit-events", { query: { limit: 50, ...filters, page: page || undefined } }).then((it) => it.data);
  };
  const loaded = useLoad(async () => ({ isFiltered: credential !== "" || action !== "", ...(await read("")) }), [credential, action]);
  const deleted = useLoad(async () => (may("credentials:read") ? readAll(api, "provider-credentials", { query: { state: "deleted" } }) : []), []);
  const known = [...status.credentials, ...(deleted.data ?? [])];
  const label = (/** @type {string | null} */ id) => known.find((it) => it.id === id)?.label ?? "";
  // Older events belong to the first page that they follow. Another choice has another first page.
  const more = older.of === loaded.data ? older : { of: loaded.data, events: [], page: loaded.data?.next_page ?? "" };
  const next = () =>
    write.run(async () => {
      const found = await read(more.page);
      setOlder({ of: more.of, events: [...more.events, ...found.data], page: found.next_page ?? "" });
      return `${plural(found.data.length, "older entry", "older entries")} shown.`;
    });
  const choose = (/** @type {(value: any) => void} */ set) => (/** @type {string} */ value) => (write.clear(), set(value));
  const events = [...(loaded.data?.data ?? []), ...more.events];
  return html`<${Section} title="Activity" loaded=${loaded}>
    <div class="filters"><${Choice} label="Key" value=${credential} onChange=${choose(setCredential)} options=${[["", "All"], ...known.map((it) => [it.id, `${isolated(it.label)}${it.state === "deleted" ? " (removed)" : ""}`])]} />
      <${Choice} label="What" value=${action} onChange=${choose(setAction)} options=${[["", "Everything"], ...Object.entries(ACTIONS)]} /></div>
    <${Results} loaded=${loaded}>${events.length === 0 ? html`<p>${loaded.data?.isFiltered ? "Nothing matches." : "Nothing was done yet."}</p>` : html`<${Table} caption="Newest first" columns=${["When", "What", "Details", "Request id"]}
      rows=${events.map((it) => [time(it.occurred_at), sentence(it, label(it.credential_id)), details(it), html`<code class="small wrap">${it.request_id ?? ""}</code>`])} />`}
    ${more.page ? html`<button type="button" disabled=${write.isBusy || loaded.isStale} onClick=${next}>Show older</button>` : null}<${Outcome} write=${write} /></${Results}></${Section}>`;
}

/** A sentence per action; unknown ones by code. @param {AuditEvent} event @param {string} label */
function sentence(event, label) {
  return `${event.actor} ${ACTIONS[event.action] ?? event.action}${label ? `: ${isolated(label)}` : ""}`;
}

/** @param {AuditEvent} event */
function details(event) {
  return Object.entries(event.details).filter(([, value]) => value !== null).map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`).join(", ");
}
