// The seven steps: choose BYO, key, label, advanced, save and validate, confirm. Choosing BYO changes nothing yet.
import { html } from "../html.js";
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { useCountdown, shown, useShared } from "../loading.js";
import { Check, Failure, Field, Status, useOpened, useRefusal } from "../ui.js";
import { CONSOLE, errorText, reasonText } from "../words.js";
import { ANTHROPIC, DestinationFields, destinationProblem, given } from "./destination.js";
import { holdsKey, lookAt } from "./key_checks.js";
import { KeyField } from "./key_field.js";
import { isValidated, use, waitFor } from "./waiting.js";

/** @typedef {import("../types.js").Credential} Credential */
/** @typedef {{step: string, error?: import("../api.js").ApiError | null, credential?: Credential | null, switchError?: any}} Progress */

/** Whether a problem says that nothing is wrong with the form, so that it may be sent again as it is. */
const MAY_REPEAT = ["no_response", "database_unavailable", "secret_store_unavailable", "rate_limited", "idempotency_in_progress"];

/** @param {{onClose: () => void}} props */
export function KeyForm({ onClose }) {
  const { api, status, refresh, go } = useShared();
  const form = useForm();
  const place = useRefusal(form.refused);
  const heading = useOpened();
  const [progress, setProgress] = useState(/** @type {Progress} */ ({ step: "editing" }));
  const send = async () => {
    const saved = await save(api, form, setProgress);
    if (!saved) return;
    form.handle.current?.clear();
    form.renew();
    await confirm(api, saved, form.useWhenValid ? status.modeEtag : null, form.useWhenValid, setProgress);
    refresh();
  };
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    send();
  };
  if (progress.step === "checking" || progress.step === "checked") {
    return html`<${Result} progress=${progress} onClose=${onClose} onRotate=${() => go("key", `rotate:${progress.credential?.id}`)} />`;
  }
  return html`<form ref=${place} onSubmit=${submit} aria-label="Add a key" autocomplete="off">
    <h3 tabindex="-1" ref=${heading}>Use your own Anthropic key</h3>
    <p>Create an API key in the <a href=${CONSOLE} target="_blank" rel="noreferrer noopener">Anthropic Console</a> and paste it here. Anthropic
      then bills your account. Nothing changes until the key is valid. There is no fallback to managed usage.</p>
    <${KeyField} handle=${form.handle} isCustom=${form.isCustom} onChange=${form.changed} onLook=${form.setLook}
      error=${form.refused?.field === "api_key" ? form.refused.code : fieldCode(progress, "api_key")} disabled=${progress.step === "encrypting"} />
    <${Field} label="Label" value=${form.label} maxlength="80" autocomplete="off" onInput=${form.onLabel}
      hint="Helps other admins to identify the key: the organization or workspace it belongs to."
      error=${form.refused?.field === "label" ? form.refused.text : null} />
    <details open=${form.isCustom || null}><summary>Advanced: custom URL, auth style, workspace</summary>
      <${DestinationFields} value=${form.destination} onChange=${form.onDestination} isKeyOfAnthropic=${form.isOfAnthropic}
        isConfirmed=${form.isHostConfirmed} onConfirm=${form.setHostConfirmed}
        error=${form.refused?.field === "base_url" ? form.refused.text : fieldMessage(progress, "base_url")} /></details>
    <${Check} label="Use it as soon as it is valid" checked=${form.useWhenValid} onChange=${form.setUseWhenValid} />
    <${SendButtons} progress=${progress} onClose=${() => (form.handle.current?.clear(), onClose())} />
    <${SaveFailure} progress=${progress} />
  </form>`;
}

/** The state of the form, except the key. */
function useForm() {
  const handle = useRef(/** @type {import("./key_field.js").KeyHandle | null} */ (null));
  const idempotencyKey = useRef(crypto.randomUUID());
  const [label, setLabel] = useState("");
  const [destination, setDestination] = useState(ANTHROPIC);
  const [isHostConfirmed, setHostConfirmed] = useState(false);
  const [isOfAnthropic, setOfAnthropic] = useState(false);
  const [useWhenValid, setUseWhenValid] = useState(true);
  const [refused, setRefused] = useState(/** @type {{field: string, code: string, text: string} | null} */ (null));
  const isCustom = destination.base_url.trim() !== "";
  const renew = () => void (idempotencyKey.current = crypto.randomUUID());
  const changed = () => {
    renew();
    setRefused(null);
  };
  useEffect(changed, [label, destination, useWhenValid]);
  const refuse = (/** @type {string} */ key) => {
    const problem = lookAt(key, isCustom).problem;
    if (problem) return refusal("api_key", problem);
    if (holdsKey(label)) return refusal("label", "key_in_label", "This holds a key. Paste the key into its own field only.");
    if (!label.trim()) return refusal("label", "label_empty", "Enter a label.");
    const wrong = destinationProblem(destination, isOfAnthropic, isHostConfirmed);
    return wrong ? refusal("base_url", "destination", wrong) : null;
  };
  return {
    ...{ handle, idempotencyKey, label, destination, isHostConfirmed, setHostConfirmed, isOfAnthropic, isCustom },
    ...{ useWhenValid, setUseWhenValid, refused, setRefused, refuse, renew, changed },
    setLook: (/** @type {import("./key_checks.js").KeyLook} */ look) => setOfAnthropic(look.isOfAnthropic),
    onLabel: (/** @type {any} */ event) => setLabel(event.currentTarget.value),
    onDestination: (/** @type {import("./destination.js").Destination} */ next) => (setDestination(next), setHostConfirmed(false)),
  };
}

/**
 * Send the key. It is only in variables of this function, which end with the response.
 * @param {import("../api.js").Api} api
 * @param {ReturnType<typeof useForm>} form
 * @param {(progress: Progress) => void} show
 */
async function save(api, form, show) {
  const key = form.handle.current?.read() ?? "";
  const refused = form.refuse(key);
  if (refused) return void form.setRefused(refused);
  show({ step: "encrypting" });
  const headers = { "Idempotency-Key": form.idempotencyKey.current, Prefer: "respond-async" };
  const body = { label: form.label.trim(), api_key: key, ...given(form.destination) };
  try {
    return (await api.send("post", "provider-credentials", { body, headers })).data;
  } catch (error) {
    show({ step: "failed", error: shown(error) });
  }
}

/** @param {string} field @param {string} code @param {string} [text] */
const refusal = (field, code, text = "") => ({ field, code, text });

/**
 * Wait for the result, then switch. The service has the key, and the page does not need it any more.
 * @param {import("../api.js").Api} api
 * @param {Credential} saved
 * @param {string | null} etag
 * @param {boolean} useWhenValid
 * @param {(progress: Progress) => void} show
 */
async function confirm(api, saved, etag, useWhenValid, show) {
  show({ step: "checking", credential: saved });
  const ask = () => api.get("provider-credentials/{credential_id}", { path: { credential_id: saved.id } }).then((it) => it.data);
  const credential = await waitFor(ask, isValidated).catch(() => saved);
  if (!useWhenValid || credential.validation.status !== "valid") return show({ step: "checked", credential });
  try {
    await use(api, credential.id, etag);
    show({ step: "checked", credential, switchError: null });
  } catch (error) {
    show({ step: "checked", credential, switchError: shown(error) });
  }
}

/** @param {{progress: Progress, onClose: () => void}} props */
function SendButtons({ progress, onClose }) {
  const left = useCountdown(progress.error ?? null);
  const mayRepeat = progress.error && MAY_REPEAT.includes(progress.error.code);
  const text = progress.step === "encrypting" ? "Encrypting…" : mayRepeat ? "Try again" : "Save and validate";
  return html`<div class="buttons">
    <button type="submit" class="primary" disabled=${progress.step === "encrypting" || left > 0}>${left > 0 ? `${text} in ${left} s` : text}</button>
    <button type="button" onClick=${onClose}>Cancel</button></div>`;
}

/** @param {{progress: Progress}} props */
function SaveFailure({ progress }) {
  const { go, refresh } = useShared();
  if (progress.step !== "failed" || !progress.error) return null;
  const other = progress.error.credentialId;
  return html`<${Failure} error=${progress.error} />
    ${other ? html`<button type="button" onClick=${() => (refresh(), go("key", `credential:${other}`))}>Show that credential</button>` : null}`;
}

/** What came out: the last of the seven steps. @param {{progress: Progress, onClose: () => void, onRotate: () => void}} props */
function Result({ progress, onClose, onRotate }) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const { go } = useShared();
  useEffect(() => place.current?.focus(), [progress.step]);
  const credential = /** @type {Credential} */ (progress.credential);
  if (progress.step === "checking") {
    return html`<div class="notice" role="status" tabindex="-1" ref=${place}>
      <p><${Status} kind="busy">Encrypted. Asking the provider…</${Status}></p>
      <p>15 seconds at most. You may leave this page; the result will be here.</p></div>`;
  }
  const result = credential.validation.latest;
  const isValid = credential.validation.status === "valid";
  const isUsed = isValid && progress.switchError === null;
  const kind = isValid ? "good" : result.status === "invalid" ? "bad" : "unsure";
  return html`<div class=${`notice ${kind}`} role="status" tabindex="-1" ref=${place}>
    <p><${Status} kind=${kind}>${resultTitle(isUsed, isValid, result)}</${Status}></p>
    <p>${reasonText(result)}</p>
    <p>Saved as <bdi>${credential.label}</bdi>, <code>${credential.key_hint ?? "no hint"}</code>. You may clear your clipboard.</p>
    ${!isUsed && html`<p>The usage mode is the same as before.</p>`}
    ${progress.switchError && html`<p>The switch failed: ${errorText(progress.switchError)} Code <code>${progress.switchError.code}</code></p>`}
    <div class="buttons">
      ${isValid && !isUsed ? html`<button type="button" onClick=${() => go("overview", "switch")}>Switch to this key</button>` : null}
      ${result.status === "invalid" ? html`<button type="button" onClick=${onRotate}>Try another key</button>` : null}
      ${isValid ? null : html`<button type="button" onClick=${() => go("key", `credential:${credential.id}`)}>Show the saved key</button>`}
      <button type="button" onClick=${onClose}>Done</button>
    </div></div>`;
}

/** @param {boolean} isUsed @param {boolean} isValid @param {{status: string}} result */
function resultTitle(isUsed, isValid, result) {
  if (isUsed) return "Valid, and in use";
  if (isValid) return "Valid, not in use";
  return result.status === "invalid" ? "Invalid" : "Could not tell yet";
}

/** @param {Progress} progress @param {string} field */
function fieldCode(progress, field) {
  return progress.error?.fields.find((it) => it.field === field)?.code ?? null;
}

/** @param {Progress} progress @param {string} field */
function fieldMessage(progress, field) {
  return progress.error?.fields.find((it) => it.field === field)?.message ?? null;
}
