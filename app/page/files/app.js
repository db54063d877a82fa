// The page after sign-in: session, status, sections.
import { html } from "./html.js";
import { useCallback, useEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import { Failure } from "./ui.js";
import { SharedContext, readAll, useLoad } from "./loading.js";
import { Activity } from "./sections/activity.js";
import { Keys } from "./sections/keys.js";
import { Limits } from "./sections/limits.js";
import { Overview } from "./sections/overview.js";
import { Statements } from "./sections/statements.js";
import { Usage } from "./sections/usage.js";

/**
 * Who pays, whether work may start, and with which keys.
 * @typedef {object} Status
 * @property {import("./types.js").ModeState | null} mode
 * @property {string | null} modeEtag
 * @property {import("./types.js").Readiness | null} readiness
 * @property {import("./types.js").Credential[]} credentials
 * @property {import("./loading.js").Loaded<unknown>} loaded
 */

const REFRESH_MILLISECONDS = 60_000;
const SECTIONS = /** @type {[string, string, string, (props: {focus: string}) => unknown][]} */ ([
  ["overview", "Overview", "billing:read", Overview],
  ["key", "Key", "credentials:read", Keys],
  ["usage", "Usage", "usage:read", Usage],
  ["limits", "Limits", "billing:read", Limits],
  ["statements", "Statements", "billing:read", Statements],
  ["activity", "Activity", "audit:read", Activity],
]);

/** @param {{api: import("./api.js").Api, organization: string | null}} props */
export function App({ api, organization }) {
  const session = useLoad(async () => (await api.get("/v1/session")).data, [api, organization]);
  const found = session.data;
  if (session.error && !found) return html`<main><${Failure} error=${session.error} onRetry=${session.reload} /></main>`;
  if (!found) return html`<main aria-busy="true"><p>Loading…</p></main>`;
  const chosen = organization ?? found.organization_id;
  if (chosen === "*") return html`<main><p>This token belongs to an internal service. Sign in for one organization.</p></main>`;
  api.organization = chosen;
  return html`<${Sections} key=${chosen} api=${api} session=${found} />`;
}

/** @param {{api: import("./api.js").Api, session: import("./types.js").Session}} props */
function Sections({ api, session }) {
  const status = useStatus(api);
  const [place, setPlace] = useState({ section: "overview", focus: "" });
  const may = useCallback((/** @type {string} */ scope) => session.scopes.includes(scope), [session]);
  const go = useCallback((/** @type {string} */ section, focus = "") => setPlace({ section, focus }), []);
  const shared = useMemo(() => ({ api, session, may, status, refresh: status.loaded.reload, go }), [api, session, status]);
  const main = useRef(/** @type {HTMLElement | null} */ (null));
  const isFirst = useRef(true);
  useEffect(() => {
    const target = main.current?.querySelector("[data-focus]") ?? main.current?.querySelector("h2");
    if (!isFirst.current) /** @type {HTMLElement | null | undefined} */ (target)?.focus();
    isFirst.current = false;
  }, [place]);
  const allowed = SECTIONS.filter(([, , scope]) => may(scope));
  const shown = allowed.find(([name]) => name === place.section) ?? allowed[0];
  return html`<${SharedContext.Provider} value=${shared}>
    <header class="top"><h1>Billing</h1><p class="small">${api.organization}, signed in as ${session.subject}${may("billing:write") ? "" : " (you may read only)"}</p></header>
    <div class="columns">
      <nav aria-label="Sections"><ul>${allowed.map(([name, title]) => html`<li key=${name}>
        <button type="button" aria-current=${shown?.[0] === name ? "page" : null} onClick=${() => go(name)}>${title}</button></li>`)}</ul></nav>
      <main ref=${main}>${shown ? html`<${shown[3]} focus=${place.focus} key=${`${shown[0]} ${place.focus}`} />` : html`<p>Your role has no access to billing.</p>`}</main>
    </div></${SharedContext.Provider}>`;
}

/** Loads the status now, each minute while visible, on focus, and after each write. @param {import("./api.js").Api} api @returns {Status} */
function useStatus(api) {
  const loaded = useLoad(async () => {
    const [mode, readiness, credentials] = await Promise.all([
      api.get("usage-mode"),
      api.get("readiness"),
      readAll(api, "provider-credentials"),
    ]);
    return { mode, readiness: readiness.data, credentials };
  }, [api, api.organization]);
  useEffect(() => {
    const look = () => document.visibilityState === "visible" && loaded.reload();
    const timer = setInterval(look, REFRESH_MILLISECONDS);
    addEventListener("focus", look);
    return () => {
      clearInterval(timer);
      removeEventListener("focus", look);
    };
  }, [loaded.reload]);
  return useMemo(() => ({
    mode: loaded.data?.mode.data ?? null,
    modeEtag: loaded.data?.mode.etag ?? null,
    readiness: loaded.data?.readiness ?? null,
    credentials: loaded.data?.credentials ?? [],
    loaded,
  }), [loaded.data, loaded.error, loaded.isLoading]);
}
