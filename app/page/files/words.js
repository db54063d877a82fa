// All sentences for codes of the API. A test compares the tables with the OpenAPI document.

/** Where an admin creates and revokes keys. */
export const CONSOLE = "https://console.anthropic.com/settings/keys";

/** @type {Record<string, string>} */
export const REASONS = {
  ok: "The key works.",
  rate_limited: "The key works. The provider was limiting requests, which it only does for accepted keys.",
  model_not_found:
    "The key works, but the model used for validation does not exist there. Choose another model at the next rotation.",
  invalid_key: "The provider rejected this key. Copy it again from the Console, or create a new one.",
  revoked_or_disabled: "The key was disabled or deleted at the provider. Create a new key.",
  insufficient_permission:
    "The key may not use the API it needs. Check its permissions and workspace in the Console.",
  workspace_required: "The key is not scoped to a workspace. Save it again with the workspace id (Advanced).",
  billing_problem:
    "The provider refuses requests for billing reasons. Add credit or raise the spend limit there, then validate again. The key can stay.",
  not_anthropic_compatible:
    "The URL responds, but not as Anthropic's API does. Check the URL with its operator.",
  redirect_refused: "The URL redirects. Keys never follow redirects. Enter the final URL.",
  tls_error: "The server's certificate is not trusted. The operator of that server must fix it.",
  address_refused:
    "The host name leads to an address that is not public, or the default endpoint changed. Save the key again with a valid URL.",
  timeout: "We could not tell: no response in time. We try again automatically.",
  unreachable: "We could not tell: no connection. We try again automatically.",
  overloaded: "We could not tell: the provider is overloaded. We try again automatically.",
  edge_blocked: "We could not tell: blocked by a filter on the way. We try again automatically.",
  interrupted: "We could not tell: validation was interrupted. We try again automatically.",
  secret_store_unavailable: "We could not tell: our key store did not respond. We try again automatically.",
  dns_unavailable: "We could not tell: the host name could not be resolved. We try again automatically.",
  unexpected_answer: "We could not tell: the response was not understood. We try again automatically.",
};

export const RATE_LIMITED_ELSEWHERE =
  "We could not tell, because the endpoint limits requests. We try again automatically.";

/** @type {Record<string, string>} */
export const BLOCKERS = {
  credential_missing: "no key",
  credential_not_valid: "the provider refuses the key, or it is not validated yet",
  credential_disabled: "the key is disabled",
  credential_deleted: "the key is deleted",
  spend_limit_reached: "a spend limit is full",
};

/** @type {Record<string, string>} */
export const KEY_CODES = {
  key_empty: "Paste the key.",
  key_too_long: "This is too long for a key. Paste only the key.",
  admin_key: "This contains an Admin API key, which manages the whole organization. Create a Claude API key instead.",
  oauth_token: "This contains an OAuth token, which expires. Create a Claude API key instead.",
  session_key: "This contains the session cookie of a personal login. Create a Claude API key instead.",
  key_is_url: "This is a URL. Paste the key here; a custom URL goes under Advanced.",
  key_is_masked: "This is a shortened key. Copy the whole key from where it was created.",
  key_is_assignment: "This is an assignment. Paste only the value after the equals sign.",
  key_has_quotes: "The key contains quotes. Paste only what is between them.",
  key_has_whitespace: "The key contains spaces or line breaks.",
  key_malformed: "This is not a Claude API key. Those start with sk-ant-api. Another provider's key needs its URL (Advanced).",
};

const WRONG_FIELDS = "Some fields are not right. See below.";

/** @type {Record<string, string>} */
const ERRORS = {
  no_response: "The service did not respond. Check the connection, then try again; that is safe.",
  signed_out: "You are signed out. Sign in again; what you entered is kept.",
  precondition_failed: "Another admin changed this at the same time. Look at the current state, then try again.",
  concurrent_change: "Another admin changed this at the same time. Try again.",
  duplicate_key: "This key is saved already, in another credential of your organization.",
  rotation_in_progress: "Another key is being validated for this credential. Wait for it, or cancel it.",
  credential_in_use: "This key is in use. Switch to managed first.",
  credential_deleted: "This credential is deleted.",
  no_previous_version: "There is no previous key to roll back to.",
  insufficient_scope: "Your role may not do this.",
  not_found: "This does not exist any more.",
  rate_limited: "Too many requests. Wait a moment.",
  concurrency_limited: "Too many reports at once.",
  database_unavailable: "The service cannot reach its database right now.",
  secret_store_unavailable: "The service cannot reach its key store right now.",
  dns_unavailable: "The host name could not be resolved right now.",
  validation_failed: WRONG_FIELDS,
  popup_blocked: "The browser blocked the sign-in window. Allow pop-ups for this page, then try again.",
  sign_in_failed: "The sign-in did not succeed. Try again.",
  sign_in_refused: "This link was used already or is older than a minute. Run byok page again.",
  too_many_credentials: "Your organization has as many credentials as it may have. Remove one first.",
};

/** The page's own sentence for an error. @param {import("./api.js").ApiError} error */
export function errorText(error) {
  return ERRORS[error.code] ?? KEY_CODES[error.code] ?? (error.fields.length > 0 ? WRONG_FIELDS : "This did not work.");
}

/** The sentence for the result of a validation. @param {{status: string, reason: string | null}} result */
export function reasonText(result) {
  if (result.status === "pending" || !result.reason) return "Not validated yet.";
  if (result.reason === "rate_limited" && result.status !== "valid") return RATE_LIMITED_ELSEWHERE;
  return REASONS[result.reason] ?? `Unknown reason: ${result.reason}.`;
}

/** @type {Record<string, string>} */
export const ACTIONS = {
  "credential.created": "saved a key",
  "credential.renamed": "changed a label",
  "credential.validated": "validated a key",
  "credential.leased": "leased a key to a service",
  "credential.disabled": "disabled a key",
  "credential.enabled": "enabled a key",
  "credential.deleted": "removed a key",
  "rotation.started": "started a rotation",
  "rotation.activated": "put a new key into use",
  "rotation.rejected": "rejected a new key",
  "rotation.cancelled": "cancelled a rotation",
  "credential.rolled_back": "rolled back to the previous key",
  "version.destroyed": "destroyed a key version",
  "spend_limit.created": "created a spend limit",
  "spend_limit.changed": "changed a spend limit",
  "spend_limit.deleted": "deleted a spend limit",
  "webhook_endpoint.created": "added a webhook",
  "webhook_endpoint.deleted": "removed a webhook",
  "usage_mode.changed": "switched the usage mode",
  "usage_mode.scheduled": "scheduled a switch of the usage mode",
  "usage_mode.schedule_replaced": "replaced the scheduled switch",
  "usage_mode.schedule_cancelled": "cancelled the scheduled switch",
  "prices.overridden": "set prices",
  "subscription.changed": "changed the subscription",
  "endpoints.counted": "set the endpoint count",
  "statement.closed": "closed a statement",
  "secret.rewrapped": "re-encrypted a key",
  "secret.moved": "moved a key to another store",
  "secret.move_cancelled": "cancelled the move of a key",
  "secret_store.root_rotation_started": "started to rotate the store's own key",
  "secret_store.root_rotated": "rotated the store's own key",
  "secret_store.move_started": "started to move all keys",
  "secret_store.moved": "moved all keys to another store",
  "secret_store.move_cancelled": "cancelled the move of all keys",
  "secret_store.transit_key_rotated": "rotated the organization's encryption key",
  "egress.exempt_hosts_in_force": "exempted hosts from the address rule",
};

/** @type {Record<string, string>} */
export const LINES = {
  subscription: "Subscription",
  endpoint_overage: "Endpoint overage",
  managed_usage: "Managed usage",
  adjustment: "Adjustment",
};

/** What the quantity of a line counts. @type {Record<string, string>} */
export const LINE_UNITS = { endpoint_overage: "endpoint", managed_usage: "token", adjustment: "token" };

/** @type {Record<string, string>} */
export const MODES = { managed: "Managed", byo: "BYO key" };
