// Limits: list, create, change, delete; and the webhooks that are notified when a threshold is crossed.
import { html } from "../html.js";
import { useState } from "../vendor/hooks.js";
import { readAll, useLoad, useShared, useWrite } from "../loading.js";
import { Choice, ConfirmByLabel, Dialog, Field, Outcome, Section } from "../ui.js";
import { ifMatch } from "../key/waiting.js";
import { LimitBar } from "./limit_bar.js";
import { Webhooks } from "./webhooks.js";

/** @typedef {import("../types.js").Limit} Limit */
/** @typedef {{name: string, amount: string, period: Limit["period"], enforcement: Limit["enforcement"], usage_mode: NonNullable<Limit["scope"]["usage_mode"]>, thresholds: string}} LimitForm */

export function Limits() {
  const { api, may } = useShared();
  const [editing, setEditing] = useState(/** @type {Limit | "new" | null} */ (null));
  const [removing, setRemoving] = useState(/** @type {Limit | null} */ (null));
  const loaded = useLoad(() => readAll(api, "spend-limits"), []);
  const canWrite = may("billing:write");
  const close = () => (setEditing(null), setRemoving(null));
  return html`<${Section} title="Limits" loaded=${loaded}>
    ${loaded.data?.length === 0 ? html`<p>No limit is set. Usage is never stopped because of its cost.</p>` : null}
    ${loaded.data?.map((it) => html`<article class="card" key=${it.id} aria-label=${it.name}><${LimitBar} limit=${it} />
      ${canWrite ? html`<div class="buttons"><button type="button" onClick=${() => setEditing(it)}>Change</button>
        <button type="button" onClick=${() => setRemoving(it)}>Delete</button></div>` : null}</article>`)}
    ${canWrite ? html`<button type="button" class="primary" onClick=${() => setEditing("new")}>Add a limit</button>` : html`<p class="small">Your role may read limits, but not change them.</p>`}
    ${editing ? html`<${LimitDialog} limit=${editing === "new" ? null : editing} onDone=${loaded.reload} onClose=${close} />` : null}
    ${removing ? html`<${DeleteDialog} limit=${removing} onDone=${loaded.reload} onClose=${close} />` : null}
  </${Section}><${Webhooks} />`;
}

/** @param {{limit: Limit | null, onDone: () => void, onClose: () => void}} props */
function LimitDialog({ limit, onDone, onClose }) {
  const { api } = useShared();
  const write = useWrite();
  const current = useLoad(async () => (limit ? api.get("spend-limits/{limit_id}", { path: { limit_id: limit.id } }) : null), []);
  const [idempotencyKey] = useState(() => crypto.randomUUID());
  const [form, setForm] = useState(/** @type {LimitForm} */ ({
    name: limit?.name ?? "", amount: limit?.amount.amount ?? "", period: limit?.period ?? "month", enforcement: limit?.enforcement ?? "block",
    usage_mode: limit?.scope.usage_mode ?? "managed", thresholds: (limit?.thresholds ?? [50, 80, 100]).join(", "),
  }));
  const choose = (/** @type {string} */ name) => (/** @type {string} */ value) => setForm({ ...form, [name]: value });
  const set = (/** @type {string} */ name) => (/** @type {any} */ event) => choose(name)(event.currentTarget.value);
  const save = () =>
    write.run(async () => {
      const body = bodyOf(form, limit);
      const sent = limit
        ? api.send("patch", "spend-limits/{limit_id}", { path: { limit_id: limit.id }, body, headers: ifMatch(current.data?.etag) })
        : api.send("post", "spend-limits", { body, headers: { "Idempotency-Key": idempotencyKey } });
      await sent.catch((error) => {
        if (error.code === "precondition_failed") current.reload();
        throw error;
      });
      onDone();
      return "Saved.";
    });
  const there = current.data?.data;
  const wrong = (/** @type {string} */ field, /** @type {string} */ text) => (write.error?.fields.some((it) => it.field.startsWith(field)) ? text : null);
  return html`<${Dialog} title=${limit ? `Change ${limit.name}` : "Add a limit"} onClose=${onClose}>
    <form onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), save())}>
      <${Field} label="Name" value=${form.name} maxlength="80" autocomplete="off" onInput=${set("name")} error=${wrong("name", "Enter a name of visible characters.")} />
      <${Field} label="Amount in USD" value=${form.amount} inputmode="decimal" autocomplete="off" onInput=${set("amount")} error=${wrong("amount", "Enter an amount such as 250 or 250.00, at most 9000000.")} />
      <${Choice} label="Per" value=${form.period} onChange=${choose("period")} options=${[["day", "UTC day"], ["month", "UTC month"], ["total", "All time"]]} />
      <${Choice} label="Counts" value=${form.usage_mode} onChange=${choose("usage_mode")}
        options=${[["managed", "Managed usage"], ["byo", "BYO usage (estimated)"], ["any", "Both, shown apart"]]} />
      <${Choice} label="When it is full" value=${form.enforcement} onChange=${choose("enforcement")}
        options=${[["block", "Refuse work (there is no fallback)"], ["notify", "Only notify"]]} />
      <${Field} label="Thresholds in percent" value=${form.thresholds} autocomplete="off" onInput=${set("thresholds")}
        error=${wrong("thresholds", "Enter up to 10 different whole numbers from 1 to 1000, with commas between them.")}
        hint="Webhooks receive a message when spend crosses one of these percentages of the amount." />
      ${write.error?.code === "precondition_failed" && there ? html`<p>Now saved: ${there.name}, ${there.amount.amount} USD. Saving again replaces it with what you entered.</p>` : null}
      <button type="submit" class="primary" disabled=${write.isBusy || current.isLoading}>Save</button>
      <${Outcome} write=${write} /></form></${Dialog}>`;
}

/** @param {LimitForm} form @param {Limit | null} limit */
function bodyOf(form, limit) {
  return {
    name: form.name.trim(), amount: { amount: form.amount.trim(), currency: /** @type {const} */ ("USD") }, period: form.period, enforcement: form.enforcement,
    scope: { ...(limit?.scope ?? {}), usage_mode: form.usage_mode },
    thresholds: form.thresholds.split(",").filter((it) => it.trim()).map((it) => Number(it)),
  };
}

/** @param {{limit: Limit, onDone: () => void, onClose: () => void}} props */
function DeleteDialog({ limit, onDone, onClose }) {
  const { api } = useShared();
  const write = useWrite();
  const remove = () => write.run(async () => (await api.send("delete", "spend-limits/{limit_id}", { path: { limit_id: limit.id } }), onDone(), "Deleted."));
  return html`<${Dialog} title=${`Delete ${limit.name}`} onClose=${onClose}>
    <${ConfirmByLabel} label=${limit.name} action="Delete the limit" write=${write} onConfirm=${remove}><p>It no longer stops work.</p></${ConfirmByLabel}></${Dialog}>`;
}
