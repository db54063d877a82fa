// Who pays, and whether work may start.
import { html } from "../html.js";
import { useShared, useWrite } from "../loading.js";
import { Outcome, Status } from "../ui.js";
import { isolated, time, utcAndLocal } from "../format.js";
import { ifMatch } from "../key/waiting.js";
import { BLOCKERS, MODES, reasonText } from "../words.js";

/** @typedef {import("../types.js").Credential} Credential */

/** @param {{onAddKey: () => void, onSwitch: () => void}} props */
export function Banner({ onAddKey, onSwitch }) {
  const { status } = useShared();
  const { readiness, mode } = status;
  if (!readiness || !mode) return null;
  const credential = status.credentials.find((it) => it.id === readiness.credential_id);
  const isKnown = !status.loaded.error;
  return html`<div class=${`banner ${!isKnown ? "unsure" : readiness.ready ? "good" : "bad"}`}>
    ${isKnown
      ? html`<${Headline} readiness=${readiness} credential=${credential} onAddKey=${onAddKey} onSwitch=${onSwitch} />`
      : html`<p class="headline"><${Status} kind="unsure">Not known right now.</${Status}></p>
          <p>Last known, ${time(status.loaded.at)}: ${MODES[readiness.mode]}, ${readiness.ready ? "work could start" : "work was stopped"}.</p>`}
    </div>
    <${ScheduledStrip} scheduled=${mode.scheduled} onMove=${onSwitch} />`;
}

/** @param {{readiness: import("../types.js").Readiness, credential: Credential | undefined, onAddKey: () => void, onSwitch: () => void}} props */
function Headline({ readiness, credential, onAddKey, onSwitch }) {
  if (readiness.ready && readiness.mode === "managed") {
    return html`<p class="headline"><${Status} kind="good">Managed. Pharaoh pays the provider and bills you.</${Status}></p>
      <p>You can bring your own (BYO) Anthropic key instead. Then your Anthropic account pays for usage.</p>`;
  }
  if (readiness.ready) {
    const latest = credential?.validation.latest;
    return html`<p class="headline"><${Status} kind="good">BYO key. Your Anthropic account pays.</${Status}></p>
      <p>${credential ? html`<bdi>${credential.label}</bdi>, <code>${credential.key_hint ?? ""}</code>, validated ${time(credential.validation.checked_at)}.` : null} There is no fallback to managed usage.</p>
      ${latest?.status === "indeterminate" ? html`<p>${reasonText(latest)} The result of ${time(credential?.validation.checked_at)} stands.</p>` : null}`;
  }
  return html`<p class="headline"><${Status} kind="bad">Work is stopped: ${readiness.blockers.map((code) => BLOCKERS[code] ?? code).join("; ")}.</${Status}></p>
    <p>${MODES[readiness.mode]}. There is no fallback: work stays stopped until this is solved.</p>
    <ul>${readiness.blockers.map((code) => html`<li key=${code}><${Blocker} code=${code} readiness=${readiness} credential=${credential} onAddKey=${onAddKey} onSwitch=${onSwitch} /></li>`)}</ul>`;
}

/** What to do about one blocker. @param {{code: string, readiness: import("../types.js").Readiness, credential: Credential | undefined, onAddKey: () => void, onSwitch: () => void}} props */
function Blocker({ code, readiness, credential, onAddKey, onSwitch }) {
  const { go, may } = useShared();
  const detail = readiness.details?.find((it) => it.code === code);
  const canWrite = may("credentials:write") && may("billing:write");
  const key = readiness.credential_id ?? "";
  const switchBack = canWrite ? html`<button type="button" onClick=${onSwitch}>Switch back to managed</button>` : null;
  if (code === "spend_limit_reached") {
    return html`<p><bdi>${detail?.limit_name ?? "A blocking spend limit"}</bdi> is full${detail?.period_ends_at ? ` until ${utcAndLocal(detail.period_ends_at)}` : ""}.</p>
      <button type="button" onClick=${() => go("limits")}>${canWrite ? "Change the limit" : "Show the limits"}</button>`;
  }
  if (code === "credential_missing") {
    return html`<p>BYO is chosen, but no key is.</p>${canWrite ? html`<button type="button" onClick=${onAddKey}>Add a key</button>` : null} ${switchBack}`;
  }
  if (code === "credential_not_valid") {
    return html`<p>${credential ? reasonText(credential.validation) : "The key is not valid."}</p>
      ${canWrite ? html`<button type="button" onClick=${() => go("key", `rotate:${key}`)}>Try another key</button>` : null}
      <button type="button" onClick=${() => go("key", `credential:${key}`)}>${canWrite ? "Validate again" : "Show the key"}</button> ${switchBack}`;
  }
  if (code === "credential_disabled") {
    return html`<p><bdi>${credential?.label ?? "The key"}</bdi> is disabled.</p><button type="button" onClick=${() => go("key", `credential:${key}`)}>${canWrite ? "Enable it" : "Show the key"}</button> ${switchBack}`;
  }
  return html`<p>The key is deleted.</p>${canWrite ? html`<button type="button" onClick=${onAddKey}>Add a key</button>` : null} ${switchBack}`;
}

/** @param {{scheduled: import("../types.js").Scheduled | null, onMove: () => void}} props */
function ScheduledStrip({ scheduled, onMove }) {
  const { api, status, refresh, may } = useShared();
  const write = useWrite();
  const cancel = () =>
    write.run(async () => {
      await api.send("delete", "usage-mode/scheduled", { headers: ifMatch(status.modeEtag) });
      refresh();
      return "The scheduled switch is cancelled.";
    });
  if (!scheduled) return html`<${Outcome} write=${write} />`;
  const label = status.credentials.find((it) => it.id === scheduled.credential_id)?.label;
  return html`<div class="banner scheduled"><p class="headline">Scheduled: ${MODES[scheduled.mode]}${label ? ` with ${isolated(label)}` : ""}, ${utcAndLocal(scheduled.effective_at)}${scheduled.changed_by ? `, by ${scheduled.changed_by}` : ""}.</p>
    ${may("billing:write") ? html`<div class="buttons"><button type="button" onClick=${onMove}>Move it, or see what changes</button>
      <button type="button" disabled=${write.isBusy} onClick=${cancel}>Cancel it</button></div>` : null}
    <${Outcome} write=${write} /></div>`;
}
