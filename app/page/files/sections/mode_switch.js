// The switch: to which mode, with which key, now or at a time, and what it would change.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.js";
import { readAll, useLoad, useShared, useWrite } from "../loading.js";
import { Check, Choice, Failure, Field, Outcome, Table, useOpened } from "../ui.js";
import { LOCAL_ZONE, isolated, money, time, utcAndLocal } from "../format.js";
import { ifMatch } from "../key/waiting.js";
import { BLOCKERS, MODES } from "../words.js";

/** @param {{onClose: () => void}} props */
export function ModeSwitch({ onClose }) {
  const { api, status, refresh } = useShared();
  const write = useWrite();
  const heading = useOpened();
  const isManaged = status.mode?.mode === "managed";
  const [target, setTarget] = useState(isManaged ? status.credentials[0]?.id ?? "none" : "managed");
  const [when, setWhen] = useState("");
  const [accepts, setAccepts] = useState(false);
  const body = requestOf(target, when);
  const asked = `${target} ${when}`;
  const preview = useLoad(
    () => api.send("post", "usage-mode/preview", { body }).then((it) => ({ asked, of: it.data })), [asked], [status.loaded.at]);
  // A preview of what was chosen before says nothing about this choice.
  const current = preview.data?.asked === asked ? preview.data.of : null;
  const stops = (current?.blockers.length ?? 0) > 0;
  const send = () =>
    write.run(async () => {
      try {
        await api.send("put", "usage-mode", { body, headers: ifMatch(status.modeEtag) });
      } finally {
        refresh();
      }
      return when ? `Scheduled for ${utcAndLocal(body.effective_at ?? "")}.` : `Switched to ${MODES[body.mode]}.`;
    });
  if (write.done) {
    return html`<div class="card"><${Outcome} write=${write} /><button type="button" onClick=${onClose}>Close</button></div>`;
  }
  const options = /** @type {[string, string][]} */ ([["managed", "Managed: Pharaoh pays and bills you"],
    ...status.credentials.map((it) => [it.id, `BYO with ${isolated(it.label)}`]), ...(status.credentials.length === 0 ? [["none", "BYO, without a key yet"]] : [])]);
  const changed = (/** @type {() => void} */ set) => (set(), setAccepts(false), write.clear());
  return html`<form class="card" aria-label="Switch the usage mode" onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), send())}>
    <h3 tabindex="-1" data-focus ref=${heading}>Switch the usage mode</h3>
    <${Choice} label="To" value=${target} options=${options} onChange=${(/** @type {string} */ it) => changed(() => setTarget(it))} />
    <${Field} label=${`When (${LOCAL_ZONE})`} type="datetime-local" value=${when} onInput=${(/** @type {any} */ event) => changed(() => setWhen(event.currentTarget.value))}
      hint=${body.effective_at ? utcAndLocal(body.effective_at) : "Leave it empty to switch now. Only future usage is affected."} />
    <${Failure} error=${preview.error} onRetry=${preview.reload} focus=${false} />
    ${current ? html`<${PreviewText} preview=${current} />` : preview.error ? null : html`<p aria-busy="true">Looking at what changes…</p>`}
    ${write.error?.code === "precondition_failed" ? html`<p>Now active: ${MODES[status.mode?.mode ?? ""]}${status.mode?.scheduled ? `, scheduled: ${MODES[status.mode.scheduled.mode]}` : ""}. You chose ${MODES[body.mode]}.</p>` : null}
    ${stops ? html`<${Check} label="I understand that work stops" checked=${accepts} onChange=${setAccepts} />` : null}
    <div class="buttons"><button type="submit" class=${stops ? "danger" : "primary"} disabled=${write.isBusy || !current || (stops && !accepts)}>
      ${stops ? "Switch and stop work" : when ? "Schedule the switch" : "Switch now"}</button>
      <button type="button" onClick=${onClose}>Close</button></div>
    <${Outcome} write=${write} />
    <${ModeHistory} /></form>`;
}

/** @param {string} target @param {string} when */
function requestOf(target, when) {
  const at = when ? new Date(when) : null;
  return {
    mode: /** @type {"managed" | "byo"} */ (target === "managed" ? "managed" : "byo"),
    credential_id: target === "managed" || target === "none" ? null : target,
    effective_at: at && !Number.isNaN(at.getTime()) ? at.toISOString() : null,
  };
}

/** @param {{preview: import("../types.js").Preview}} props */
function PreviewText({ preview }) {
  const { projection, statement } = preview;
  const limits = preview.spend_limits.filter((it) => it.counts_now !== it.counts_after_switch);
  return html`<div class="notice" role="status">
    <p>Statement of ${statement.month} so far: ${money(statement.total)}. Managed usage of the month, projected: ${money(projection.managed_usage_after_switch)} with this switch, ${money(projection.managed_usage_as_planned)} without it.</p>
    ${preview.replaces ? html`<p>Replaces the scheduled switch to ${MODES[preview.replaces.mode]} at ${utcAndLocal(preview.replaces.effective_at)}.</p>` : null}
    ${limits.map((it) => html`<p key=${it.id}>Limit <bdi>${it.name}</bdi> ${it.counts_after_switch ? "starts" : "stops"} to count.</p>`)}
    ${preview.blockers.length > 0 ? html`<p><strong>Work would stop: ${preview.blockers.map((code) => BLOCKERS[code] ?? code).join("; ")}. There is no fallback.</strong></p>` : null}
  </div>`;
}

function ModeHistory() {
  const { api, status } = useShared();
  const loaded = useLoad(() => readAll(api, "usage-mode/history", {}, 100), [status.modeEtag]);
  const rows = loaded.data ?? [];
  const label = (/** @type {string | null} */ id) => (id ? status.credentials.find((it) => it.id === id)?.label ?? "a removed key" : "");
  return html`<details><summary>History</summary><${Table} caption="Switches, newest first" columns=${["From", "Mode", "Key", "By"]}
    rows=${rows.map((it) => [time(it.effective_from), MODES[it.mode], label(it.credential_id), it.changed_by ?? ""])} /></details>`;
}
