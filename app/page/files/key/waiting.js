// Waiting for the result of a validation, and putting a valid key into use.

const FIRST_WAITS = [300, 700];
const LONGEST_MILLISECONDS = 20_000;

/** @param {number} milliseconds */
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/**
 * Ask again until `isDecided`, 20 seconds at most. Returns the last response.
 * @template T
 * @param {() => Promise<T>} ask
 * @param {(found: T) => boolean} isDecided
 * @returns {Promise<T>}
 */
export async function waitFor(ask, isDecided) {
  const end = Date.now() + LONGEST_MILLISECONDS;
  for (let turn = 0; ; turn++) {
    await pause(FIRST_WAITS[turn] ?? 1000);
    const found = await ask();
    if (isDecided(found) || Date.now() > end) return found;
  }
}

/** @param {import("../types.js").Credential} credential */
export function isValidated(credential) {
  return credential.validation.latest.status !== "pending";
}

/** The header that changes only the revision that was shown. @param {string | null | undefined} etag @returns {{"If-Match"?: string}} */
export function ifMatch(etag) {
  return etag ? { "If-Match": etag } : {};
}

/**
 * Switch to a credential, if the mode is still what was shown.
 * @param {import("../api.js").Api} api
 * @param {string} credentialId
 * @param {string | null} etag
 */
export async function use(api, credentialId, etag) {
  await api.send("put", "usage-mode", { body: { mode: "byo", credential_id: credentialId }, headers: ifMatch(etag) });
}
