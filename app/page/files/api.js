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

  /** The path of a resource of the organization. @param {string} path */
  path(path) {
    return `v1/organizations/${encodeURIComponent(this.organization)}/${path}`;
  }

  /** @template T @param {string} path @returns {Promise<import("./types.js").Answer<T>>} */
  get(path) {
    return this.send("GET", path);
  }

  /**
   * Sends a request, and once more with a new token after a 401. It repeats no other response.
   * @template T
   * @param {string} method
   * @param {string} path
   * @param {unknown} [body]
   * @param {Record<string, string>} [headers]
   * @returns {Promise<import("./types.js").Answer<T>>}
   */
  async send(method, path, body, headers = {}) {
    const response = await this.fetch(method, path, body, headers);
    const text = await response.text().catch(() => "");
    return { data: parse(text), etag: response.headers.get("ETag") };
  }

  /** The CSV of a resource, byte for byte. @param {string} path */
  async download(path) {
    const response = await this.fetch("GET", path, undefined, { Accept: "text/csv" });
    const named = response.headers.get("Content-Disposition") ?? "";
    return { blob: await response.blob(), name: named.split('"')[1] ?? "usage.csv" };
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
