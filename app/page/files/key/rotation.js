// Rotation: a new key for a credential, in a separate dialog with an empty field.
import { html } from "../html.js";
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { shown, useShared, useWrite } from "../loading.js";
import { Choice, Dialog, Failure, Outcome, Status, useRefusal } from "../ui.js";
import { time } from "../format.js";
import { reasonText } from "../words.js";
import { ANTHROPIC, DestinationFields, destinationProblem, given } from "./destination.js";
import { lookAt } from "./key_checks.js";
import { KeyField } from "./key_field.js";
import { waitFor } from "./waiting.js";

/** @typedef {import("../types.js").Credential} Credential */
/** @typedef {import("../types.js").Rotation} Rotation */

/** @param {{credential: Credential, onClose: () => void}} props */
export function RotationDialog({ credential, onClose }) {
  return html`<${Dialog} title=${`Rotate the key of ${credential.label}`} onClose=${onClose}>
    <${RotationForm} credential=${credential} onClose=${onClose} /></${Dialog}>`;
}

/** @param {{credential: Credential, onClose: () => void, leaked?: boolean}} props the credential as it is before the rotation */
export function RotationForm({ credential, onClose, leaked = false }) {
  const { api, refresh } = useShared();
  const handle = useRef(/** @type {import("./key_field.js").KeyHandle | null} */ (null));
  const idempotencyKey = useRef(crypto.randomUUID());
  const [where, setWhere] = useState("same");
  const [destination, setDestination] = useState(ANTHROPIC);
  const [isConfirmed, setConfirmed] = useState(false);
  const [isOfAnthropic, setOfAnthropic] = useState(false);
  const [activate, setActivate] = useState(/** @type {Rotation["activate"]} */ (leaked ? "immediately" : "when_valid"));
  const [destroy, setDestroy] = useState(/** @type {Rotation["destroy_previous"]} */ (leaked ? "immediately" : "after_retention"));
  const [refused, setRefused] = useState(/** @type {{code?: string, destination?: string} | null} */ (null));
  const place = useRefusal(refused);
  const [state, setState] = useState(/** @type {{step: string, error: any, rotation: Rotation | null}} */ ({ step: "editing", error: null, rotation: null }));
  const isCustom = where === "other" || (where === "same" && credential.base_url !== null);
  const changed = () => {
    idempotencyKey.current = crypto.randomUUID();
    setRefused(null);
  };
  const path = { credential_id: credential.id };
  /** The key is only in variables of this function, which end with the response. */
  const start = async () => {
    const key = handle.current?.read() ?? "";
    const code = lookAt(key, isCustom).problem;
    if (code) return void setRefused({ code });
    const wrong = where === "other" ? destinationProblem(destination, isOfAnthropic, isConfirmed) : null;
    if (wrong) return void setRefused({ destination: wrong });
    setState({ step: "encrypting", error: null, rotation: null });
    const body = { api_key: key, activate, destroy_previous: destroy, ...destinationOf(where, destination) };
    const response = await api.send("post", "provider-credentials/{credential_id}/rotations", {
      path, body, headers: { "Idempotency-Key": idempotencyKey.current, Prefer: "respond-async" },
    });
    return response.data;
  };
  const send = async () => {
    try {
      const rotation = await start();
      if (!rotation) return;
      handle.current?.clear();
      setState({ step: "checking", error: null, rotation });
      const ask = () => api.get("provider-credentials/{credential_id}/rotations/{rotation_id}", { path: { ...path, rotation_id: rotation.id } }).then((it) => it.data);
      setState({ step: "decided", error: null, rotation: await waitFor(ask, isSettled) });
      refresh();
    } catch (error) {
      setState((before) => ({ ...before, step: before.rotation ? "decided" : "editing", error: shown(error) }));
    }
  };
  if (state.rotation) return html`<${RotationResult} credential=${credential} rotation=${state.rotation} onClose=${onClose} />`;
  return html`<form ref=${place} onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), send())} aria-label="Rotate the key">
    <p>The key in use stays in use until the new one takes over.</p>
    <${KeyField} handle=${handle} isCustom=${isCustom} onChange=${changed} disabled=${state.step === "encrypting"}
      error=${refused?.code ?? codeOf(state.error)}
      onLook=${(/** @type {import("./key_checks.js").KeyLook} */ look) => setOfAnthropic(look.isOfAnthropic)} />
    <${Choice} label="Destination" value=${where} onChange=${(/** @type {string} */ it) => (changed(), setWhere(it))}
      options=${[["same", `As before: ${credential.messages_url}`], ["anthropic", "Anthropic"], ["other", "Another URL"]]} />
    ${where === "other" && html`<${DestinationFields} value=${destination} onChange=${(/** @type {any} */ it) => (changed(), setDestination(it), setConfirmed(false))}
      isKeyOfAnthropic=${isOfAnthropic} isConfirmed=${isConfirmed} onConfirm=${setConfirmed}
      error=${refused?.destination ?? null} />`}
    <${Choice} label="The new key takes over" value=${activate} onChange=${(/** @type {Rotation["activate"]} */ it) => (changed(), setActivate(it))}
      options=${[["when_valid", "When the provider accepts it"], ["immediately", "At once, whatever the result"]]} />
    <${Choice} label="The old key" value=${destroy} onChange=${(/** @type {Rotation["destroy_previous"]} */ it) => (changed(), setDestroy(it))}
      options=${[["after_retention", "Is kept for a rollback for a while"], ["immediately", "Is destroyed as soon as it is replaced"]]} />
    <div class="buttons"><button type="submit" class="primary" disabled=${state.step === "encrypting"}>${state.step === "encrypting" ? "Encrypting…" : "Rotate"}</button></div>
    <${Failure} error=${state.error} /></form>`;
}

/** Whether more waiting would show nothing new. A key that took over at once is still being checked. @param {Rotation} rotation */
function isSettled(rotation) {
  return rotation.validation.latest.status !== "pending";
}

/** What happens to the old key. @param {Rotation} rotation */
function oldKey(rotation) {
  if (rotation.destroy_previous !== "immediately") return "The old key is kept for a rollback.";
  if (!rotation.previous_kept_reason) return "The old key is destroyed here.";
  return "The old key still exists here, because no check has proven the new one yet. A valid result destroys it.";
}

/** @param {string} where @param {import("./destination.js").Destination} destination */
function destinationOf(where, destination) {
  if (where === "same") return {};
  return given(where === "anthropic" ? ANTHROPIC : destination);
}

/** @param {import("../api.js").ApiError | null} error */
function codeOf(error) {
  return error?.fields.find((/** @type {{field: string}} */ it) => it.field === "api_key")?.code ?? null;
}

/** @param {{credential: Credential, rotation: Rotation, onClose: () => void}} props */
function RotationResult({ credential, rotation, onClose }) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => place.current?.focus(), [rotation.validation.latest.status]);
  const hint = html`<code>${rotation.key_hint ?? `version ${rotation.key_version}`}</code>`;
  return html`<div role="status" class="notice" tabindex="-1" ref=${place}>
    ${rotation.state === "activated"
      ? html`<p><${Status} kind="good">The new key ${hint} is in use.</${Status}></p>
          ${rotation.validation.latest.status === "valid" ? null : html`<p><${Status} kind="unsure">${reasonText(rotation.validation.latest)}</${Status}></p>`}
          <p>${oldKey(rotation)} Now revoke <code>${credential.key_hint}</code> in the Anthropic Console, once the card says that it is safe.</p>`
      : rotation.state === "pending"
        ? html`<p><${Status} kind="busy">The new key ${hint} is being validated. The old key is in use.</${Status}></p>
            <p>${reasonText(rotation.validation.latest)}</p>`
        : html`<p><${Status} kind="bad">The new key was rejected. The old key is untouched.</${Status}></p>
            <p>${reasonText(rotation.validation.latest)}</p>`}
    <button type="button" onClick=${onClose}>Done</button></div>`;
}

/** A rotation that is not decided yet. It is found again after a reload. @param {{credential: Credential}} props */
export function PendingRotation({ credential }) {
  const { api, refresh, may } = useShared();
  const write = useWrite();
  const rotation = credential.rotation;
  if (!rotation) return html`<${Outcome} write=${write} />`;
  const cancel = () =>
    write.run(async () => {
      await api.send("delete", "provider-credentials/{credential_id}/rotations/{rotation_id}", { path: { credential_id: credential.id, rotation_id: rotation.id } });
      refresh();
      return "Cancelled. The new key is destroyed.";
    });
  return html`<div class="notice unsure">
    <p><${Status} kind="busy">A new key <code>${rotation.key_hint ?? ""}</code> is being validated. The old key is in use.</${Status}></p>
    <p>${reasonText(rotation.validation.latest)} Started ${time(rotation.created_at)} by ${rotation.created_by}. We try for 24 hours.</p>
    ${may("credentials:write") ? html`<button type="button" disabled=${write.isBusy} onClick=${cancel}>Cancel this rotation</button>` : null}
    <${Outcome} write=${write} /></div>`;
}
