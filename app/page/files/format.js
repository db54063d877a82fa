// How numbers, money and times are written. Money is never computed here: the server's strings are shown.

/** @typedef {import("./types.js").Money} Money */

const USD = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD" });
const COUNT = new Intl.NumberFormat("en-US");
const COMPACT = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export const LOCAL_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

/** @param {Money | null | undefined} value */
export function money(value) {
  if (!value) return "–";
  const amount = Number(value.amount);
  return amount > 0 && amount < 0.01 ? "<\u00a0$0.01" : USD.format(amount);
}

/** A value of a scale, with the digits of its steps. @param {number} value @param {number} step */
export function moneyMark(value, step) {
  const digits = step % 1 === 0 || value === 0 ? 0 : Math.max(2, 1 - Math.floor(Math.log10(step)));
  if (step >= 1000) return `$${compact(value)}`;
  return new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", minimumFractionDigits: Math.min(digits, 2), maximumFractionDigits: digits }).format(value);
}

/** A name in a sentence. Right-to-left text would reorder the numbers beside it, so it is isolated. @param {string} name */
export function isolated(name) {
  return [...name].some((it) => it >= "\u0590") ? `\u2068${name}\u2069` : name;
}

/** The number behind an amount, for the length of a bar only. @param {Money | null | undefined} value */
export function size(value) {
  return value ? Math.max(0, Number(value.amount)) : 0;
}

/** @param {number} value */
export function count(value) {
  return COUNT.format(value);
}

/** @param {number} value */
export function compact(value) {
  return COMPACT.format(value);
}

/** @param {number} n @param {string} one @param {string} [many] */
export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** A time in a zone that is named. @param {string | null | undefined} iso @param {string} [zone] */
export function time(iso, zone = LOCAL_ZONE) {
  if (!iso) return "never";
  const format = new Intl.DateTimeFormat("en-GB", {
    ...{ day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" },
    timeZone: zone,
    timeZoneName: "short",
  });
  return format.format(new Date(iso));
}

/** What counts in UTC says UTC, and the local time beside it. @param {string} iso */
export function utcAndLocal(iso) {
  const utc = time(iso, "UTC");
  const local = time(iso);
  return utc === local ? utc : `${utc} (${local})`;
}

/** @param {string | null | undefined} iso */
export function ago(iso) {
  if (!iso) return "never";
  const seconds = Math.round((Date.now() - Date.parse(iso)) / 1000);
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${plural(Math.round(seconds / 60), "minute")} ago`;
  return seconds < 86400 ? `${plural(Math.round(seconds / 3600), "hour")} ago` : time(iso);
}

/** The local date of an instant in a zone, YYYY-MM-DD. @param {string} iso @param {string} zone */
export function dateIn(iso, zone) {
  return new Intl.DateTimeFormat("en-CA", { timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit" }).format(
    new Date(iso),
  );
}

/** The current month in UTC, YYYY-MM. */
export function thisMonth() {
  return new Date().toISOString().substring(0, 7);
}
