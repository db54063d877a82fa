// `/billing` by itself: decides how the visitor signs in. Tokens are only in memory.
import { PharaohByok } from "./element.js";
import { html } from "./html.js";
import { SignInView, holder, redeem } from "./sign_in.js";

const element = /** @type {PharaohByok | null} */ (document.querySelector("pharaoh-byok"));

/** The code of a link of `byok page`. It leaves the address at once. */
function codeInAddress() {
  const given = location.hash.startsWith("#code=") ? location.hash.substring(6) : "";
  if (location.hash) history.replaceState(null, "", location.pathname);
  return given;
}

/** @param {PharaohByok} page */
async function start(page) {
  const code = codeInAddress();
  const parents = (page.getAttribute("parents") ?? "").split(" ").filter(Boolean);
  if (window.parent !== window) {
    const { tokenFromParent } = await import("./frame.js");
    page.getToken = tokenFromParent(parents);
    return;
  }
  const signIn = (/** @type {string} */ token) => {
    tokens.set(token);
    page.getToken = tokens.get;
  };
  const tokens = holder();
  const oidc = page.getAttribute("client-id")
    ? { issuer: page.getAttribute("issuer") ?? "", clientId: page.getAttribute("client-id") ?? "", scope: page.getAttribute("authorize-scope") ?? "" }
    : null;
  const show = (/** @type {unknown} */ error) =>
    void (page.signInView = html`<${SignInView} oidc=${oidc} onToken=${signIn} failed=${error} isDevelopment=${!page.getAttribute("issuer")} />`);
  show(null);
  if (!code) return;
  await redeem(code).then(signIn, show);
}

if (element) start(element);
