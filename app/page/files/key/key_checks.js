// What can be said about a pasted key in the browser. No regular expression ever sees a key: engines keep the last
// matched text. No slices either: they may keep the whole text alive. The service checks everything again.

const QUOTES = "\"'`´«»‘’‚‛“”„‟′″‹›＂＇";
const MASKS = ["...", "…", "***", "••", "●●", "∙∙", "··", "■■", "██"];
const SHORTEST_WITH_HINT = 40;

/**
 * @typedef {object} KeyLook
 * @property {number} length
 * @property {string | null} hint as the service will publish it
 * @property {string | null} problem a code of `KEY_CODES`
 * @property {string[]} spaces the names of spaces in it
 * @property {boolean} isOfAnthropic
 */

/** @param {string} text @param {boolean} isCustom whether it is for a custom URL @returns {KeyLook} */
export function lookAt(text, isCustom) {
  const spaces = spacesIn(text);
  const problem = problemOf(text, isCustom, spaces.length > 0);
  return { length: text.length, hint: problem ? null : hintOf(text), problem, spaces, isOfAnthropic: holdsKey(text) };
}

/** @param {string} text @param {boolean} isCustom @param {boolean} hasSpaces */
function problemOf(text, isCustom, hasSpaces) {
  const lower = text.toLowerCase();
  if (text.length === 0) return "key_empty";
  if (lower.includes("sk-ant-admin")) return "admin_key";
  if (lower.includes("sk-ant-oat") || lower.includes("sk-ant-ort")) return "oauth_token";
  if (lower.includes("sk-ant-sid")) return "session_key";
  if (text.length > (isCustom ? 4096 : 512)) return "key_too_long";
  if (lower.trim().startsWith("https://") || lower.trim().startsWith("http://")) return "key_is_url";
  if (MASKS.some((mask) => text.includes(mask))) return "key_is_masked";
  if (isAssignment(text)) return "key_is_assignment";
  if (hasAny(text, QUOTES)) return "key_has_quotes";
  if (hasSpaces) return "key_has_whitespace";
  if (!isPrintableAscii(text)) return "key_malformed";
  return isCustom || isWellFormed(text) ? null : "key_malformed";
}

/** Whether a text holds a key, wherever it stands: for fields that are stored in clear. @param {string} text */
export function holdsKey(text) {
  return text.toLowerCase().includes("sk-ant-");
}

/** Whether it starts as Anthropic's API keys do. @param {string} text */
function isWellFormed(text) {
  if (!text.startsWith("sk-ant-api") || text.length < 33) return false;
  return isDigit(text.charCodeAt(10)) && isDigit(text.charCodeAt(11)) && text.charAt(12) === "-";
}

/** Without its spaces, made of single characters. @param {string} text */
export function withoutSpaces(text) {
  let rest = "";
  for (let at = 0; at < text.length; at++) if (!nameOfSpace(text.charCodeAt(at))) rest += text.charAt(at);
  return rest;
}

/** @param {string} text */
function spacesIn(text) {
  const names = new Set();
  for (let at = 0; at < text.length; at++) {
    const name = nameOfSpace(text.charCodeAt(at));
    if (name) names.add(name);
  }
  return [...names];
}

/** @param {number} code */
function nameOfSpace(code) {
  if (code === 0x20) return "a space";
  if (code === 0x09) return "a tab";
  if (code === 0x0a || code === 0x0d) return "a line break";
  if (code === 0xa0) return "a no-break space";
  if (code >= 0x2000 && code <= 0x200b) return "a special space";
  return code === 0x2028 || code === 0x2029 || code === 0x202f || code === 0x3000 || code === 0xfeff ? "a special space" : null;
}

/** @param {string} text */
function hintOf(text) {
  if (text.length < SHORTEST_WITH_HINT) return null;
  const last = part(text, text.length - 4, text.length);
  return isWellFormed(text) ? `${part(text, 0, 16)}...${last}` : `...${last}`;
}

/** @param {string} text @param {number} from @param {number} to */
function part(text, from, to) {
  let found = "";
  for (let at = from; at < to; at++) found += text.charAt(at);
  return found;
}

/** NAME=value. Equals signs at the end belong to base64. @param {string} text */
function isAssignment(text) {
  const at = text.indexOf("=");
  if (at < 1 || at > 70) return false;
  for (let next = at; next < text.length; next++) if (text.charAt(next) !== "=") return true;
  return false;
}

/** @param {string} text @param {string} characters */
function hasAny(text, characters) {
  for (let at = 0; at < text.length; at++) if (characters.includes(text.charAt(at))) return true;
  return false;
}

/** @param {string} text */
function isPrintableAscii(text) {
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code < 0x21 || code > 0x7e) return false;
  }
  return true;
}

/** @param {number} code */
function isDigit(code) {
  return code >= 0x30 && code <= 0x39;
}
