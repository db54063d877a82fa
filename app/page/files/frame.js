// The page in an iframe: its parent supplies the token over a port. Other windows are not asked and not heard.

const RESPONSE_MILLISECONDS = 10_000;

/**
 * Ask each allowed parent origin. The browser delivers a message only if the parent really has that origin.
 * @param {string[]} origins
 * @returns {import("./types.js").GetToken}
 */
export function tokenFromParent(origins) {
  return ({ force }) =>
    new Promise((resolve, reject) => {
      const channels = origins.map(() => new MessageChannel());
      const settle = (/** @type {unknown} */ token) => {
        clearTimeout(timer);
        for (const { port1 } of channels) port1.close();
        if (typeof token === "string" && token) resolve(token);
        else reject(new Error("no token"));
      };
      const timer = setTimeout(settle, RESPONSE_MILLISECONDS);
      channels.forEach(({ port1, port2 }, at) => {
        port1.onmessage = (event) => settle(event.data);
        window.parent.postMessage({ type: "byok:token", force }, origins[at], [port2]);
      });
    });
}
