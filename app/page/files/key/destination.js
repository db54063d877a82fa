// Where a key is sent: Anthropic, or a custom URL with its auth style, workspace and model.
import { html } from "../html.js";
import { useEffect, useRef, useState } from "../vendor/hooks.js";
import { useShared } from "../loading.js";
import { Check, Choice, Field } from "../ui.js";
import { holdsKey } from "./key_checks.js";

/** @typedef {{base_url: string, auth_style: string, workspace_id: string, probe_model: string}} Destination */

/** @type {Destination} */
export const ANTHROPIC = { base_url: "", auth_style: "", workspace_id: "", probe_model: "" };

/** The fields that are set, as the API takes them. @param {Destination} value */
export function given(value) {
  return Object.fromEntries(Object.entries(value).map(([name, text]) => [name, text.trim() || null]));
}

const HOLDS_KEY = "This holds a key. Paste the key into its own field only.";

/** The host that an Anthropic key must be confirmed for, or an empty text. @param {string} url @param {boolean} isOfAnthropic */
function foreignHost(url, isOfAnthropic) {
  const host = isOfAnthropic && URL.canParse(url) ? new URL(url).host : "";
  return host === "api.anthropic.com" ? "" : host;
}

/** Why a destination must not be sent, or null. @param {Destination} value @param {boolean} isOfAnthropic @param {boolean} isConfirmed */
export function destinationProblem(value, isOfAnthropic, isConfirmed) {
  if (Object.values(value).some(holdsKey)) return HOLDS_KEY;
  const host = foreignHost(value.base_url, isOfAnthropic);
  return host && !isConfirmed ? `Tick the box to send an Anthropic key to ${host}.` : null;
}

/**
 * Check a URL some time after typing. One check is under way at a time.
 * @param {string} url
 * @returns {{kind: string, text: string}}
 */
function useUrlCheck(url) {
  const { api } = useShared();
  const [verdict, setVerdict] = useState({ kind: "quiet", text: "" });
  const last = useRef(0);
  useEffect(() => {
    setVerdict({ kind: "quiet", text: "" });
    if (!url.startsWith("https://") || holdsKey(url)) return;
    let isCurrent = true;
    const wait = Math.max(700, last.current + 2000 - Date.now());
    const timer = setTimeout(async () => {
      last.current = Date.now();
      const next = await checkUrl(api, url);
      if (isCurrent) setVerdict(next);
    }, wait);
    return () => {
      isCurrent = false;
      clearTimeout(timer);
    };
  }, [url]);
  return verdict;
}

/** @param {import("../api.js").Api} api @param {string} url */
async function checkUrl(api, url) {
  try {
    const { data: check } = await api.send("post", "/v1/provider-url-checks", { body: { url } });
    if (check.accepted) return { kind: "good", text: `Requests go to ${check.canonical_url}` };
    return { kind: "bad", text: check.message ?? "" };
  } catch {
    return { kind: "quiet", text: "Checked when you save." };
  }
}

/**
 * @param {{value: Destination, onChange: (value: Destination) => void, isKeyOfAnthropic: boolean,
 *   isConfirmed: boolean, onConfirm: (is: boolean) => void, error?: string | null}} props
 */
export function DestinationFields({ value, onChange, isKeyOfAnthropic, isConfirmed, onConfirm, error }) {
  const check = useUrlCheck(value.base_url.trim());
  const host = foreignHost(value.base_url, isKeyOfAnthropic);
  const set = (/** @type {keyof Destination} */ name) => (/** @type {any} */ event) =>
    onChange({ ...value, [name]: event.currentTarget.value });
  const leaked = (/** @type {keyof Destination} */ name) => (holdsKey(value[name]) ? HOLDS_KEY : null);
  return html`
    <${Field} label="Provider URL (empty: Anthropic)" value=${value.base_url} onInput=${set("base_url")} inputmode="url"
      autocomplete="off" spellcheck=${false} placeholder="https://" error=${leaked("base_url") ?? (error === HOLDS_KEY ? null : error) ?? (check.kind === "bad" ? check.text : null)}
      hint=${check.kind === "good" || check.kind === "quiet" ? html`<span role="status">${check.text}</span>` : null} />
    ${host
      ? html`<${Check} label=${`Send this Anthropic key to ${host}`} checked=${isConfirmed} onChange=${onConfirm} />`
      : null}
    <${Choice} label="Auth style" value=${value.auth_style} onChange=${(/** @type {string} */ text) => onChange({ ...value, auth_style: text })}
      options=${[["", "Chosen for the host"], ["x_api_key", "x-api-key header"], ["bearer", "Bearer token"]]} />
    <${Field} label="Workspace id (only for keys without a workspace)" value=${value.workspace_id} onInput=${set("workspace_id")}
      autocomplete="off" spellcheck=${false} error=${leaked("workspace_id")} />
    <${Field} label="Model for validation (custom URLs only)" value=${value.probe_model} onInput=${set("probe_model")}
      autocomplete="off" spellcheck=${false} error=${leaked("probe_model")} />`;
}
