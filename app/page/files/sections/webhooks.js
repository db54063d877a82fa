// Webhooks: list, add, remove. A signing secret is shown once and leaves the document with its dialog.
import { html } from "../html.js";
import { useRef, useState } from "../vendor/hooks.js";
import { readAll, useLoad, useShared, useWrite } from "../loading.js";
import { ConfirmByLabel, Dialog, Field, Outcome, Section } from "../ui.js";
import { time } from "../format.js";

/** @typedef {import("../types.js").Webhook} Webhook */

export function Webhooks() {
  const { api, may } = useShared();
  const loaded = useLoad(() => readAll(api, "webhook-endpoints"), []);
  const [dialog, setDialog] = useState(/** @type {Webhook | "new" | null} */ (null));
  const canWrite = may("billing:write");
  const close = () => setDialog(null);
  return html`<${Section} title="Webhooks" loaded=${loaded}>
    ${loaded.data?.length === 0 ? html`<p>No webhook is set. A webhook sends a message to a system of yours, for example when a limit is nearly full or a key turns invalid.</p>` : null}
    <ul class="plain-list">${loaded.data?.map((it) => html`<li key=${it.id}><span class="wrap">${it.url}</span> <span class="small">added ${time(it.created_at)} by ${it.created_by}</span>
      ${canWrite ? html` <button type="button" onClick=${() => setDialog(it)}>Remove<span class="hidden"> ${it.url}</span></button>` : null}</li>`)}</ul>
    ${canWrite ? html`<button type="button" onClick=${() => setDialog("new")}>Add a webhook</button>` : null}
    ${dialog === "new" ? html`<${AddDialog} onDone=${loaded.reload} onClose=${close} />` : dialog ? html`<${RemoveDialog} webhook=${dialog} onDone=${loaded.reload} onClose=${close} />` : null}
  </${Section}>`;
}

/** @param {{onDone: () => void, onClose: () => void}} props */
function AddDialog({ onDone, onClose }) {
  const { api } = useShared();
  const write = useWrite();
  const [url, setUrl] = useState("");
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  // The secret is only in the text of this element, and in no state. It leaves the document with the dialog.
  const add = () =>
    write.run(async () => {
      const { data } = await api.send("post", "webhook-endpoints", { body: { url } });
      onDone();
      // None if it was closed before.
      if (place.current) place.current.textContent = data.signing_secret;
      return "Added. Copy the signing secret now: it is shown only once.";
    });
  return html`<${Dialog} title="Add a webhook" onClose=${onClose}>
    <form onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), add())}>
      <${Field} label="HTTPS URL" value=${url} inputmode="url" autocomplete="off" placeholder="https://" onInput=${(/** @type {any} */ event) => setUrl(event.currentTarget.value)}
        hint="It receives signed messages about limits, keys, rotations and the usage mode." />
      <button type="submit" class="primary" disabled=${write.isBusy || write.done !== null}>Add</button>
      <${Outcome} write=${write} />
      <p><code class="wrap" ref=${place} data-private></code></p></form></${Dialog}>`;
}

/** @param {{webhook: Webhook, onDone: () => void, onClose: () => void}} props */
function RemoveDialog({ webhook, onDone, onClose }) {
  const { api } = useShared();
  const write = useWrite();
  const remove = () => write.run(async () => (await api.send("delete", "webhook-endpoints/{endpoint_id}", { path: { endpoint_id: webhook.id } }), onDone(), "Removed."));
  return html`<${Dialog} title="Remove a webhook" onClose=${onClose}>
    <${ConfirmByLabel} label=${webhook.url} action="Remove" write=${write} onConfirm=${remove}><p>It receives no more messages.</p></${ConfirmByLabel}></${Dialog}>`;
}
