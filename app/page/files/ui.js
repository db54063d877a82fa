// Parts that every section uses. Plain elements: button, dialog, details, table.
import { html } from "./html.js";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "./vendor/hooks.js";
import { time } from "./format.js";
import { useCountdown } from "./loading.js";
import { errorText } from "./words.js";

/** @typedef {import("./api.js").ApiError} ApiError */

const ICONS = /** @type {Record<string, string>} */ ({ good: "✓", bad: "✕", unsure: "?", off: "–", busy: "…" });

/** Icon, word and colour. @param {{kind: string, children?: unknown}} props */
export function Status({ kind, children }) {
  return html`<span class=${`status ${kind}`}><span aria-hidden="true">${ICONS[kind]}</span> ${children}</span>`;
}

/** The result of a validation. @param {{result: {status: string}}} props */
export function Result({ result }) {
  if (result.status === "valid") return html`<${Status} kind="good">Valid</${Status}>`;
  if (result.status === "invalid") return html`<${Status} kind="bad">Invalid</${Status}>`;
  if (result.status === "pending") return html`<${Status} kind="busy">Being validated</${Status}>`;
  return html`<${Status} kind="unsure">Could not tell</${Status}>`;
}

/** An error: sentence, code, request id. @param {{error: ApiError | null, onRetry?: () => void, focus?: boolean}} props */
export function Failure({ error, onRetry, focus = true }) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const left = useCountdown(error);
  useEffect(() => {
    if (error && focus) place.current?.focus();
  }, [error]);
  if (!error) return null;
  return html`<div class="notice bad" role="alert" tabindex="-1" ref=${place}>
    <p>${errorText(error)} ${left > 0 ? `Try again in ${left} s.` : null}</p>
    ${error.fields.map((it) => html`<p key=${it.field}><code>${it.field}</code>: ${it.message}</p>`)}
    <p class="small">Code <code>${error.code}</code>${error.requestId ? html`, request <code>${error.requestId}</code>` : null}</p>
    ${onRetry ? html`<button type="button" disabled=${left > 0} onClick=${onRetry}>Try again</button>` : null}
  </div>`;
}

/** What a write did, under its button. @param {{children?: unknown}} props */
export function Done({ children }) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    if (children) place.current?.focus();
  }, [children]);
  return html`<div role="status" tabindex="-1" ref=${place} class=${children ? "notice good" : "quiet"}>${children}</div>`;
}

/** The outcome of a write. @param {{write: ReturnType<typeof import("./loading.js").useWrite>}} props */
export function Outcome({ write }) {
  return html`<${Failure} error=${write.error} /><${Done}>${write.done}</${Done}>`;
}

/**
 * A section that can be loading, failed or shown.
 * @param {{title: string, loaded: import("./loading.js").Loaded<unknown>, empty?: unknown, children?: unknown}} props
 */
export function Section({ title, loaded, empty, children }) {
  const isFirst = loaded.isLoading && loaded.data === null;
  const isSlow = useSlow(isFirst);
  const heading = useRef(/** @type {HTMLElement | null} */ (null));
  const retry = () => (heading.current?.focus(), loaded.reload());
  return html`<section aria-busy=${isFirst ? "true" : "false"}>
    <h2 tabindex="-1" ref=${heading}>${title}</h2>
    ${isFirst && isSlow && html`<div class="skeleton"><p>Loading…</p></div>`}
    ${loaded.error && html`<${Failure} error=${loaded.error} onRetry=${retry} focus=${false} />`}
    ${loaded.error && loaded.data !== null && html`<p class="small">${loaded.isStale ? "What is shown belongs to the choice before." : `This is the state of ${time(loaded.at)}.`}</p>`}
    ${loaded.data !== null && (empty || children)}
  </section>`;
}

/** Whether it takes so long that it is shown. @param {boolean} isBusy */
function useSlow(isBusy) {
  const [isSlow, setIsSlow] = useState(false);
  useEffect(() => {
    if (!isBusy) return setIsSlow(false);
    const timer = setTimeout(() => setIsSlow(true), 300);
    return () => clearTimeout(timer);
  }, [isBusy]);
  return isBusy && isSlow;
}

/** A heading that gets focus when it opens; when it closes, the heading of the section gets it. */
export function useOpened() {
  const heading = useRef(/** @type {HTMLElement | null} */ (null));
  useLayoutEffect(() => {
    const section = heading.current?.closest("section")?.querySelector("h2");
    heading.current?.focus();
    return () => section?.focus();
  }, []);
  return heading;
}

/** A form whose first wrong field gets focus when it is refused. @param {unknown} refused */
export function useRefusal(refused) {
  const form = useRef(/** @type {HTMLFormElement | null} */ (null));
  useLayoutEffect(() => {
    const wrong = refused ? /** @type {HTMLElement | null | undefined} */ (form.current?.querySelector("[aria-invalid]")) : null;
    const details = wrong?.closest("details");
    if (details) details.open = true;
    wrong?.focus();
  }, [refused]);
  return form;
}

/**
 * What follows from a choice. While another one loads, it stays in its place, dimmed, with a sign over it.
 * @param {{loaded: import("./loading.js").Loaded<unknown>, children?: unknown}} props
 */
export function Results({ loaded, children }) {
  const isBusy = loaded.isStale && (loaded.isLoading || !loaded.error);
  const isSlow = useSlow(isBusy);
  return html`<p class="sign" role="status">${isSlow ? html`<span>Loading…</span>` : null}</p>
    <div class=${isSlow ? "dim" : null} aria-busy=${isBusy ? "true" : "false"}>${children}</div>`;
}

/** @param {{label: string, hint?: unknown, error?: string | null, children?: unknown, type?: string, [more: string]: unknown}} props */
export function Field({ label, hint, error, ...input }) {
  const id = useId();
  const described = [hint ? `${id}-hint` : "", error ? `${id}-error` : ""].join(" ").trim();
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <input id=${id} ...${input} aria-describedby=${described || null} aria-invalid=${error ? "true" : null} />
    ${hint ? html`<p id=${`${id}-hint`} class="small">${hint}</p>` : null}
    ${error ? html`<p id=${`${id}-error`} class="error">${error}</p>` : null}
  </div>`;
}

/** @param {{label: string, value: string, onChange: (value: string) => void, options: [string, string][]}} props */
export function Choice({ label, value, onChange, options }) {
  const id = useId();
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <select id=${id} value=${value} onChange=${(/** @type {any} */ event) => onChange(event.currentTarget.value)}>
      ${options.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === value}>${text}</option>`)}
    </select>
  </div>`;
}

/** @param {{label: unknown, checked: boolean, onChange: (value: boolean) => void, disabled?: boolean}} props */
export function Check({ label, checked, onChange, disabled }) {
  return html`<label class="check"
    ><input type="checkbox" checked=${checked} disabled=${disabled}
      onChange=${(/** @type {any} */ event) => onChange(event.currentTarget.checked)} />
    <span>${label}</span></label>`;
}

/**
 * A modal dialog. What it held leaves the document when it closes, and focus returns to what opened it,
 * or to the heading of the section if that is gone.
 * @param {{title: string, onClose: () => void, children?: unknown}} props
 */
export function Dialog({ title, onClose, children }) {
  const id = useId();
  const place = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const opener = useRef(/** @type {HTMLElement | null} */ (null));
  const root = () => /** @type {ShadowRoot | Document | undefined} */ (place.current?.getRootNode());
  // In the same frame: before it is shown, nothing in it takes focus.
  useLayoutEffect(() => {
    opener.current = /** @type {HTMLElement | null} */ (root()?.activeElement ?? null);
    place.current?.showModal();
  }, []);
  // After it has left the document: until then, the rest takes no focus.
  useEffect(() => {
    const heading = /** @type {HTMLElement | null} */ (root()?.querySelector("main h2") ?? null);
    return () => returnFocus(opener.current, heading);
  }, []);
  // Removed, not closed: closed, it would still hold a key.
  return html`<dialog ref=${place} aria-labelledby=${id} onClose=${onClose}
    onCancel=${(/** @type {Event} */ event) => (event.preventDefault(), onClose())}>
    <header><h2 id=${id}>${title}</h2>
      <button type="button" class="plain" onClick=${onClose}>Close</button></header>
    ${children}
  </dialog>`;
}

/**
 * Focus what opened a dialog, or the heading once that has left the document.
 * @param {HTMLElement | null} opener
 * @param {HTMLElement | null} heading
 */
function returnFocus(opener, heading) {
  const target = opener?.isConnected ? opener : heading;
  target?.focus();
  if (target !== opener || !heading?.parentElement) return;
  const changes = new MutationObserver(() => {
    const focused = /** @type {ShadowRoot | Document} */ (heading.getRootNode()).activeElement;
    if (focused === opener) return;
    changes.disconnect();
    if (!opener?.isConnected && (!focused || focused === document.body)) heading.focus();
  });
  changes.observe(heading.parentElement, { childList: true, subtree: true });
}

/** A destructive act: the label is typed first. @param {{label: string, action: string, write: any, onConfirm: () => void, children?: unknown}} props */
export function ConfirmByLabel({ label, action, write, onConfirm, children }) {
  const [typed, setTyped] = useState("");
  return html`<form onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), typed === label && onConfirm())}>
    ${children}
    <${Field} label=${`Type the label “${label}” to confirm`} value=${typed} autocomplete="off"
      onInput=${(/** @type {any} */ event) => setTyped(event.currentTarget.value)} />
    <button type="submit" class="danger" disabled=${typed !== label || write.isBusy}>${action}</button>
    <${Outcome} write=${write} />
  </form>`;
}

/** @param {{columns: string[], rows: unknown[][], caption: string}} props */
export function Table({ columns, rows, caption }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table>
    <caption>${caption}</caption>
    <thead><tr>${columns.map((it) => html`<th scope="col" key=${it}>${it}</th>`)}</tr></thead>
    <tbody>${rows.map((row, at) => html`<tr key=${at}>${row.map((cell, column) =>
      column === 0 ? html`<th scope="row">${cell}</th>` : html`<td>${cell}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}
