// Sign-in of the page by itself: a one-time code, a pasted token, or the identity provider.
import { html } from "./html.js";
import { useRef } from "./vendor/hooks.js";
import { ApiError } from "./api.js";
import { useWrite } from "./loading.js";
import { Failure } from "./ui.js";

/** A token in memory. It cannot be renewed: a forced request says that there is none. */
export function holder() {
  let token = "";
  return {
    set: (/** @type {string} */ next) => void (token = next),
    /** @type {import("./types.js").GetToken} */
    get: async ({ force }) => (force ? "" : token),
  };
}

/** Exchange the code of a link for a token. @param {string} code @returns {Promise<string>} */
export async function redeem(code) {
  const response = await fetch(new URL("sign-in", import.meta.url), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code }),
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  }).catch(() => null);
  const found = await response?.json().catch(() => null);
  if (response?.ok) return found.access_token;
  throw new ApiError({ status: response?.status ?? 0, code: found?.code ?? "no_response", request_id: found?.request_id });
}

/**
 * @param {{oidc: import("./oidc.js").OidcSettings | null, onToken: (token: string) => void, failed: ApiError | null, isDevelopment: boolean}} props
 */
export function SignInView({ oidc, onToken, failed, isDevelopment }) {
  const write = useWrite();
  const input = useRef(/** @type {HTMLInputElement | null} */ (null));
  const paste = (/** @type {Event} */ event) => {
    event.preventDefault();
    const token = input.current?.value.trim() ?? "";
    if (input.current) input.current.value = "";
    if (token) onToken(token);
  };
  const open = () =>
    write.run(async () => {
      const { signInWithPopup } = await import("./oidc.js");
      onToken(await signInWithPopup(/** @type {any} */ (oidc)));
    });
  return html`<div class="sign-in-ways">
    <${Failure} error=${failed} />
    ${oidc
      ? html`<button type="button" class="primary" onClick=${open}>${write.isBusy ? "Open the sign-in window again" : "Sign in"}</button>
          ${write.isBusy ? html`<p role="status">Continue in the sign-in window.</p>` : null}
          <${Failure} error=${write.error} />`
      : html`${isDevelopment ? html`<p>Run <code>byok page</code> and open the link that it prints.</p>` : null}
          <form onSubmit=${paste}><div class="field"><label for="token">Or paste a token</label>
            <input id="token" ref=${input} type="password" autocomplete="one-time-code" spellcheck=${false} data-1p-ignore data-lpignore="true" /></div>
            <button type="submit">Sign in with it</button></form>`}
  </div>`;
}
