// The custom element. A host sets `getToken`; nothing is fetched from the API before there is a token.
import { html } from "./html.js";
import { render } from "./vendor/preact.js";
import { Api } from "./api.js";
import { App } from "./app.js";

const HERE = new URL(".", import.meta.url);

/** @type {Promise<CSSStyleSheet> | null} */
let sheet = null;

/** The style sheet, fetched once. A constructed sheet needs no `style` element and no inline style. */
function styleSheet() {
  sheet ??= fetch(new URL("style.css", HERE), { credentials: "omit", referrerPolicy: "no-referrer" })
    .then((response) => response.text())
    .then((text) => new CSSStyleSheet().replace(text));
  return sheet;
}

export class PharaohByok extends HTMLElement {
  static observedAttributes = ["organization", "api"];

  /** @type {import("./types.js").GetToken | null} */
  #getToken = null;
  /** Shown instead of the page while there is no token. @type {unknown} */
  #signInView = null;
  #isSignedOut = false;
  /** @type {ShadowRoot | null} */
  #root = null;
  /** @type {Api | null} */
  #api = null;

  /** @param {import("./types.js").GetToken | null} getToken */
  set getToken(getToken) {
    this.#getToken = getToken;
    this.#isSignedOut = false;
    this.#show();
  }

  /** @param {unknown} view */
  set signInView(view) {
    this.#signInView = view;
    this.#show();
  }

  connectedCallback() {
    if (!this.#root) {
      this.#root = this.attachShadow({ mode: "open" });
      const root = this.#root;
      styleSheet().then((found) => void (root.adoptedStyleSheets = [found]), () => {});
    }
    this.#show();
  }

  /** Removing the element removes everything in it, and with it what was typed. */
  disconnectedCallback() {
    if (this.#root) render(null, this.#root);
  }

  attributeChangedCallback() {
    this.#api = null;
    this.#show();
  }

  /** @param {boolean} isSignedIn */
  #setSession(isSignedIn) {
    if (this.#isSignedOut !== isSignedIn) return;
    this.#isSignedOut = !isSignedIn;
    if (!isSignedIn) this.dispatchEvent(new CustomEvent("byok:signed-out"));
    this.#show();
  }

  #show() {
    if (!this.#root || !this.isConnected) return;
    const base = this.getAttribute("api") || new URL("..", HERE).href;
    this.#api ??= new Api(
      base.endsWith("/") ? base : `${base}/`,
      async (options) => (this.#getToken ? this.#getToken(options) : ""),
      (isSignedIn) => this.#setSession(isSignedIn),
    );
    const waiting = this.#signInView ?? html`<p>Waiting for the application to sign you in.</p>`;
    const page = this.#getToken
      ? html`${this.#isSignedOut && html`<div class="notice bad" role="alert"><p>Signed out. Sign in again; what you entered is kept.</p>${waiting}</div>`}
          <${App} api=${this.#api} organization=${this.getAttribute("organization") || null} />`
      : html`<main class="sign-in"><h1>Billing</h1>${waiting}</main>`;
    render(html`<div class="byok">${page}</div>`, this.#root);
  }
}

if (!customElements.get("pharaoh-byok")) customElements.define("pharaoh-byok", PharaohByok);
