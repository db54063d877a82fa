// Requests to the public API. The only module that sends requests with a token.

/** A request that did not succeed: what the page may show of it. It never holds a body that was sent. */
export class ApiError extends Error {
  /**
   * @param {import("./types.js").Problem} problem
   * @param {number | null} retryAfter seconds
   */
  constructor(problem, retryAfter = null) {
    super(problem.code);
    this.code = problem.code;
    this.status = problem.status;
    this.requestId = problem.request_id ?? null;
    this.fields = problem.errors ?? [];
    this.credentialId = problem.credential_id ?? null;
    this.retryAfter = retryAfter;
  }
}

const NO_RESPONSE = { status: 0, code: "no_response" };
const SIGNED_OUT = { status: 401, code: "signed_out" };

export class Api {
  /**
   * @param {string} base the URL of the service, ending in a slash
   * @param {import("./types.js").GetToken} getToken
   * @param {(isSignedIn: boolean) => void} onSession
   */
  constructor(base, getToken, onSession) {
    this.base = base;
    this.getToken = getToken;
    this.onSession = onSession;
    this.organization = "";
  }

  /** Read a resource. @type {import("./api_types.js").Get} */
  get = (template, ...given) => this.send("get", template, ...given);

  /** Send a request, and once more with a new token after a 401. It repeats no other response. @type {import("./api_types.js").Send} */
  send = async (method, template, ...[parts]) => {
    const { path, query, headers, body } = /** @type {import("./api_types.js").Loose} */ (parts ?? {});
    const response = await this.fetch(method.toUpperCase(), this.path(template, path, query), body, headers ?? {});
    const text = await response.text().catch(() => "");
    return { data: parse(text), etag: response.headers.get("ETag") };
  };

  /**
   * The path of a request, relative to the service.
   * @param {string} template of the OpenAPI document; without a slash it begins at the organization
   * @param {Record<string, string | number>} [path]
   * @param {Record<string, unknown>} [query] lists are repeated; what is undefined is left out
   */
  path(template, path = {}, query = {}) {
    let filled = template.startsWith("/") ? template.substring(1) : `v1/organizations/${encodeURIComponent(this.organization)}/${template}`;
    for (const [name, value] of Object.entries(path)) filled = filled.replaceAll(`{${name}}`, encodeURIComponent(value));
    const pairs = Object.entries(query).flatMap(([name, value]) =>
      [value].flat().filter((it) => it !== undefined).map((it) => `${name}=${encodeURIComponent(String(it))}`));
    return pairs.length > 0 ? `${filled}?${pairs.join("&")}` : filled;
  }

  /**
   * The URL of a file, which works once and needs no token: the browser itself saves it, and the page never holds it.
   * @template {import("./api_types.js").Export} E
   * @param {E} file
   * @param {import("./api_types.js").ExportParts<E>} parts
   */
  async exportUrl(file, parts) {
    const response = await this.fetch("POST", this.path(`${file}/links`, .../** @type {any} */ ([parts.path, parts.query])), undefined, {});
    const { path } = /** @type {import("./types.js").ExportLink} */ (await response.json());
    return new URL(path.substring(1), this.base).href;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {unknown} body
   * @param {Record<string, string>} headers
   * @returns {Promise<Response>}
   */
  async fetch(method, path, body, headers) {
    let response = await this.attempt(method, path, body, headers, false);
    if (response.status === 401) response = await this.attempt(method, path, body, headers, true);
    if (response.status === 401) throw this.signedOut();
    this.onSession(true);
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {unknown} body
   * @param {Record<string, string>} headers
   * @param {boolean} force
   */
  async attempt(method, path, body, headers, force) {
    const token = await this.getToken({ force }).catch(() => null);
    if (!token) throw this.signedOut();
    /** @type {Record<string, string>} */
    const type = body === undefined ? {} : { "Content-Type": "application/json" };
    return fetch(new URL(path, this.base), {
      method,
      headers: { Authorization: `Bearer ${token}`, Accept: "application/json", ...type, ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      referrerPolicy: "no-referrer",
    }).catch(() => {
      throw new ApiError(NO_RESPONSE);
    });
  }

  signedOut() {
    this.onSession(false);
    return new ApiError(SIGNED_OUT);
  }
}

/** @param {string} text */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** @param {Response} response */
async function problemOf(response) {
  const found = parse(await response.text().catch(() => ""));
  const wait = Number(response.headers.get("Retry-After"));
  const problem = found && typeof found.code === "string" ? found : { code: "unexpected" };
  return new ApiError({ ...problem, status: response.status }, wait > 0 ? wait : null);
}
