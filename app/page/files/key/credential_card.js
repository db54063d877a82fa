// A saved key: a card, not an input. It shows only the published hint of the key.
import { html } from "../html.js";
import { useLayoutEffect, useRef, useState } from "../vendor/hooks.js";
import { readAll, useLoad, useShared, useWrite } from "../loading.js";
import { ConfirmByLabel, Dialog, Failure, Field, Outcome, Result, Status, Table } from "../ui.js";
import { ago, time } from "../format.js";
import { reasonText } from "../words.js";
import { PendingRotation } from "./rotation.js";
import { ifMatch, isValidated, waitFor } from "./waiting.js";

/** @typedef {import("../types.js").Credential} Credential */

/** @param {{credential: Credential, usage: "used" | "scheduled" | "", isFocused: boolean, onOpen: (dialog: string) => void}} props */
export function CredentialCard({ credential, usage, isFocused, onOpen }) {
  const { may } = useShared();
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  // The list may be loaded later than `app.js` looks for it.
  useLayoutEffect(() => {
    if (isFocused) place.current?.focus();
  }, [isFocused]);
  return html`<article class="card" ref=${place} aria-label=${credential.label} tabindex=${isFocused ? "-1" : null} data-focus=${isFocused ? "" : null}>
    <header><h3>${credential.label}</h3>
      <${Result} result=${credential.validation} />
      ${credential.state === "disabled" ? html`<${Status} kind="off">Disabled</${Status}>` : null}
      ${usage === "used" ? html`<${Status} kind="good">In use</${Status}>` : null}
      ${usage === "scheduled" ? html`<${Status} kind="busy">Scheduled for use</${Status}>` : null}</header>
    <p>${reasonText(credential.validation)}</p>
    ${credential.validation.latest.status === "indeterminate" && credential.validation.status !== "indeterminate"
      ? html`<p>The last validation could not tell: ${reasonText(credential.validation.latest)} The result of ${time(credential.validation.checked_at)} stands.</p>` : null}
    <${Facts} credential=${credential} />
    <${PendingRotation} credential=${credential} />
    <${PreviousKey} credential=${credential} />
    ${may("credentials:write") ? html`<${Actions} credential=${credential} onOpen=${onOpen} />` : null}
    <${History} credential=${credential} />
  </article>`;
}

/** @param {{credential: Credential}} props */
function Facts({ credential }) {
  const facts = [
    ["Key", html`<code>${credential.key_hint ?? "no hint"}</code>, version ${credential.key_version}`],
    ["Fingerprint", html`<code class="wrap">${credential.fingerprint}</code>`],
    ["Destination", credential.messages_url],
    ["Validated", ago(credential.validation.latest.checked_at)],
    ["Next validation", credential.next_validation_at ? time(credential.next_validation_at) : "–"],
    ["Last used", ago(credential.last_used_at)],
    ["Saved", `${time(credential.created_at)} by ${credential.created_by}`],
    ["Rotated", time(credential.rotated_at)],
  ];
  return html`<dl>${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** @param {{credential: Credential}} props */
function PreviousKey({ credential }) {
  const { api, refresh, may } = useShared();
  const write = useWrite();
  const { previous } = credential;
  if (!previous) return html`<${Outcome} write=${write} />`;
  const rollBack = () =>
    write.run(async () => {
      await api.send("post", "provider-credentials/{credential_id}/rollback", { path: { credential_id: credential.id } });
      refresh();
      return "Rolled back. The previous key is in use again.";
    });
  return html`<div class="notice">
    <p>${previous.safe_to_revoke
      ? html`<${Status} kind="good">You may now revoke the replaced key (version ${previous.key_version}) in the Console.</${Status}>`
      : html`<${Status} kind="unsure">Not yet safe to revoke the replaced key (version ${previous.key_version}): a request may still use it.</${Status}>`}</p>
    <p>You can roll back until ${time(previous.retires_at)}.</p>
    ${may("credentials:write") ? html`<button type="button" disabled=${write.isBusy} onClick=${rollBack}>Roll back</button>` : null}
    <${Outcome} write=${write} /></div>`;
}

/** @param {{credential: Credential, onOpen: (dialog: string) => void}} props */
function Actions({ credential, onOpen }) {
  const { api, refresh } = useShared();
  const write = useWrite();
  const path = { credential_id: credential.id };
  const check = () =>
    write.run(async () => {
      await api.send("post", "provider-credentials/{credential_id}/validations", { path, headers: { Prefer: "respond-async", "Idempotency-Key": crypto.randomUUID() } });
      const before = credential.validation.latest.checked_at;
      const ask = () => api.get("provider-credentials/{credential_id}", { path }).then((it) => it.data);
      const found = await waitFor(ask, (it) => isValidated(it) && it.validation.latest.checked_at !== before);
      refresh();
      return reasonText(found.validation.latest);
    });
  const toggle = (/** @type {"enable" | "disable"} */ to) =>
    write.run(async () => {
      await api.send("post", `provider-credentials/{credential_id}/${to}`, { path });
      refresh();
      return to === "disable" ? "Disabled. Work with this key is stopped; there is no fallback." : "Enabled.";
    });
  return html`<div class="buttons">
    <button type="button" disabled=${write.isBusy} onClick=${check}>${write.isBusy ? "Working…" : "Validate now"}</button>
    <button type="button" onClick=${() => onOpen("rotate")}>Rotate</button>
    <button type="button" onClick=${() => onOpen("rename")}>Change label</button>
    ${credential.state === "disabled"
      ? html`<button type="button" onClick=${() => toggle("enable")}>Enable</button>`
      : html`<button type="button" onClick=${() => toggle("disable")}>Disable</button>`}
    <button type="button" onClick=${() => onOpen("remove")}>Remove</button>
    <button type="button" class="danger" onClick=${() => onOpen("leaked")}>It leaked</button>
  </div><${Outcome} write=${write} />`;
}

/** @param {{credential: Credential, onClose: () => void}} props */
export function RenameDialog({ credential, onClose }) {
  const { api, refresh } = useShared();
  const write = useWrite();
  const [label, setLabel] = useState(credential.label);
  const path = { credential_id: credential.id };
  const current = useLoad(() => api.get("provider-credentials/{credential_id}", { path }), []);
  const save = () =>
    write.run(async () => {
      const headers = ifMatch(current.data?.etag);
      await api.send("patch", "provider-credentials/{credential_id}", { path, body: { label }, headers }).catch((error) => {
        if (error.code === "precondition_failed") current.reload();
        throw error;
      });
      refresh();
      return "Saved.";
    });
  const there = current.data?.data;
  return html`<${Dialog} title="Change the label" onClose=${onClose}>
    <form onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), save())}>
      <${Field} label="Label" value=${label} maxlength="80" onInput=${(/** @type {any} */ event) => setLabel(event.currentTarget.value)} />
      ${write.error?.code === "precondition_failed" && there ? html`<p>Now saved: ${there.label}. Saving again replaces it with ${label}.</p>` : null}
      <button type="submit" class="primary" disabled=${write.isBusy || !current.data}>Save</button>
      <${Outcome} write=${write} /></form></${Dialog}>`;
}

/** @param {{credential: Credential, isUsed: boolean, onClose: () => void}} props */
export function RemoveDialog({ credential, isUsed, onClose }) {
  const { api, refresh } = useShared();
  const write = useWrite();
  const remove = () =>
    write.run(async () => {
      const { data } = await api.send("delete", "provider-credentials/{credential_id}", { path: { credential_id: credential.id }, query: { force: isUsed } });
      refresh();
      return `Removed. Versions destroyed: ${data.versions_destroyed.join(", ")}.`;
    });
  return html`<${Dialog} title=${`Remove ${credential.label}`} onClose=${onClose}>
    <${ConfirmByLabel} label=${credential.label} action=${isUsed ? "Remove and stop work" : "Remove"} write=${write} onConfirm=${remove}>
      <p>All versions of the key are destroyed. Its usage and history stay.</p>
      ${isUsed ? html`<p><${Status} kind="bad">This key is in use. Work stops at once; there is no fallback.</${Status}></p>` : null}
    </${ConfirmByLabel}></${Dialog}>`;
}

/** @param {{credential: Credential}} props */
function History({ credential }) {
  const [isOpen, setOpen] = useState(false);
  return html`<details onToggle=${(/** @type {any} */ event) => setOpen(event.currentTarget.open)}>
    <summary>Validations and versions</summary>${isOpen && html`<${HistoryTables} credential=${credential} />`}</details>`;
}

/** @param {{credential: Credential}} props */
function HistoryTables({ credential }) {
  const { api } = useShared();
  const path = { credential_id: credential.id };
  const loaded = useLoad(
    () => Promise.all([
      api.get("provider-credentials/{credential_id}/validations", { path, query: { limit: 20 } }),
      readAll(api, "provider-credentials/{credential_id}/versions", { path }, 100),
    ]), [credential.updated_at]);
  if (loaded.error) return html`<${Failure} error=${loaded.error} onRetry=${loaded.reload} focus=${false} />`;
  if (!loaded.data) return html`<p aria-busy="true">Loading…</p>`;
  const [{ data: { data: validations } }, versions] = loaded.data;
  return html`<${Table} caption="Validations, newest first" columns=${["When", "Version", "Result", "By"]}
      rows=${validations.map((it) => [time(it.checked_at ?? it.created_at), it.key_version, reasonText(it), it.requested_by])} />
    <${Table} caption="Versions of the key" columns=${["Version", "State", "Key", "Saved"]}
      rows=${versions.map((it) => [it.key_version, it.state, html`<code>${it.key_hint ?? "–"}</code>`, `${time(it.created_at)} by ${it.created_by}`])} />`;
}
