// The field for a key. The key is only in the field itself: never in state, properties or attributes.
import { html } from "../html.js";
import { useEffect, useId, useRef, useState } from "../vendor/hooks.js";
import { plural } from "../format.js";
import { KEY_CODES } from "../words.js";
import { lookAt, withoutSpaces } from "./key_checks.js";

const IDLE_MILLISECONDS = 10 * 60 * 1000;
/** @type {import("./key_checks.js").KeyLook} */
const EMPTY = { length: 0, hint: null, problem: null, spaces: [], isOfAnthropic: false };

/**
 * How a form gets at its field.
 * @typedef {object} KeyHandle
 * @property {() => string} read the key, once, when the form is sent
 * @property {() => void} clear
 */

/**
 * @param {object} props
 * @param {{current: KeyHandle | null}} props.handle
 * @param {boolean} props.isCustom whether the key is for a custom URL
 * @param {() => void} props.onChange
 * @param {(look: import("./key_checks.js").KeyLook) => void} props.onLook
 * @param {string | null} [props.error] a code from the service, or from sending too early
 * @param {boolean} [props.disabled]
 */
export function KeyField({ handle, isCustom, onChange, onLook, error, disabled }) {
  const id = useId();
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const [look, setLook] = useState(EMPTY);
  const show = () => {
    const next = input.current ? lookAt(input.current.value, isCustom) : EMPTY;
    setLook(next);
    onLook(next);
  };
  handle.current = {
    read: () => input.current?.value ?? "",
    clear: () => {
      if (input.current) input.current.value = "";
      setLook(EMPTY);
    },
  };
  useEffect(show, [isCustom]);
  useClearing(input, () => setLook(EMPTY), look.length);
  const changed = () => {
    show();
    onChange();
  };
  const removeSpaces = () => {
    if (input.current) input.current.value = withoutSpaces(input.current.value);
    changed();
    input.current?.focus();
  };
  const problem = error ?? (look.length > 0 ? look.problem : null);
  return html`<div class="field" data-private data-sentry-mask data-hj-suppress>
    <label for=${id}>Anthropic API key</label>
    <input id=${id} ref=${input} type="password" class="ph-no-capture rr-block fs-exclude" autocomplete="one-time-code"
      autocapitalize="off" spellcheck=${false} data-1p-ignore data-lpignore="true" data-bwignore data-form-type="other"
      data-private data-sentry-mask data-hj-suppress
      disabled=${disabled} aria-describedby=${`${id}-look`} aria-invalid=${problem ? "true" : null} onInput=${changed} />
    <p id=${`${id}-look`} class=${problem ? "error" : "small"} aria-live="polite">${lookText(look, problem)}</p>
    ${look.spaces.length > 0
      ? html`<button type="button" onClick=${removeSpaces}>Remove ${look.spaces.join(" and ")}</button>`
      : null}
  </div>`;
}

/** @param {import("./key_checks.js").KeyLook} look @param {string | null} problem */
function lookText(look, problem) {
  const length = look.length > 0 ? `${plural(look.length, "character")}. ` : "";
  if (problem) return `${length}${KEY_CODES[problem] ?? "This is not a key."}`;
  if (look.length === 0) return "It is sent once, and never shown again.";
  return look.hint ? `${length}Will be shown as ${look.hint}` : length;
}

/**
 * Clear the field when the page is left, when the field is removed, and after ten idle minutes.
 * @param {{current: HTMLInputElement | null}} input
 * @param {() => void} onCleared
 * @param {number} length
 */
function useClearing(input, onCleared, length) {
  useEffect(() => {
    const field = /** @type {HTMLInputElement} */ (input.current);
    const clear = () => void (field.value = "");
    const leave = () => (clear(), onCleared());
    addEventListener("pagehide", leave);
    const timer = length > 0 ? setTimeout(leave, IDLE_MILLISECONDS) : 0;
    return () => {
      removeEventListener("pagehide", leave);
      clearTimeout(timer);
    };
  }, [length]);
  useEffect(() => {
    const field = /** @type {HTMLInputElement} */ (input.current);
    return () => void (field.value = "");
  }, []);
}
