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
  return amount > 0 && amount < 0.01 ? "< $0.01" : USD.format(amount);
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

/** @param {number} n @param {string} one */
export function plural(n, one) {
  return `${count(n)} ${one}${n === 1 ? "" : "s"}`;
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
