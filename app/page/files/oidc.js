// Sign-in with the identity provider: authorization code with PKCE, as a public client, in a popup.
// A redirect of the page itself would lose what was typed. Verifier, state and token are only in memory.
import * as oauth from "./vendor/oauth4webapi.js";
import { ApiError } from "./api.js";

/** @typedef {{issuer: string, clientId: string, scope: string}} OidcSettings */

const CHANNEL = "byok-sign-in";

/** @param {OidcSettings} settings @returns {Promise<string>} */
export async function signInWithPopup(settings) {
  const popup = window.open("about:blank", "", "popup,width=520,height=680");
  if (!popup) throw new ApiError({ status: 0, code: "popup_blocked" });
  try {
    return await authorize(settings, popup);
  } catch {
    throw new ApiError({ status: 0, code: "sign_in_failed" });
  } finally {
    popup.close();
  }
}

/** @param {OidcSettings} settings @param {Window} popup */
async function authorize({ issuer, clientId, scope }, popup) {
  const client = { client_id: clientId };
  const url = new URL(issuer);
  const options = url.protocol === "http:" ? { [oauth.allowInsecureRequests]: true } : {};
  const server = await oauth.processDiscoveryResponse(url, await oauth.discoveryRequest(url, options));
  const redirect = new URL("callback", import.meta.url).href;
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const address = new URL(server.authorization_endpoint ?? "");
  if (address.protocol !== url.protocol) throw new Error("unexpected scheme"); // never `javascript:`
  const query = { client_id: clientId, redirect_uri: redirect, response_type: "code", scope, state, code_challenge_method: "S256" };
  for (const [name, value] of Object.entries(query)) address.searchParams.set(name, value);
  address.searchParams.set("code_challenge", await oauth.calculatePKCECodeChallenge(verifier));
  const callback = callbackOf(state);
  popup.location.href = address.href;
  const parameters = oauth.validateAuthResponse(server, client, await callback, state);
  const response = await oauth.authorizationCodeGrantRequest(server, client, oauth.None(), parameters, redirect, verifier, options);
  return (await oauth.processAuthorizationCodeResponse(server, client, response)).access_token;
}

/** The query of the callback that carries this state. @param {string} state @returns {Promise<URLSearchParams>} */
function callbackOf(state) {
  return new Promise((resolve, reject) => {
    const channel = new BroadcastChannel(CHANNEL);
    const timer = setTimeout(() => (channel.close(), reject(new Error("no callback"))), 5 * 60 * 1000);
    channel.onmessage = (event) => {
      const parameters = new URLSearchParams(String(event.data));
      if (parameters.get("state") !== state) return;
      clearTimeout(timer);
      channel.close();
      resolve(parameters);
    };
  });
}
