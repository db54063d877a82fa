// A question to the usage report: range, zone, dimensions and filters, and how it is asked.

/** @typedef {import("../types.js").Bucket} Bucket */
/** @typedef {{dimension: string, value: string | null}} Filter */
/** @typedef {{from: string, to: string, zone: string, filters: Filter[]}} Question */

export const DIMENSIONS = /** @type {[string, string][]} */ ([
  ["usage_mode", "Mode"], ["model", "Model"], ["feature", "Feature"], ["endpoint_id", "Endpoint"],
  ["session_id", "Session"], ["prompt_id", "Prompt"], ["key_version", "Key version"], ["outcome", "Outcome"],
]);

/** From a dimension, a click goes down to the next one. @type {Record<string, string>} */
export const BELOW = { usage_mode: "feature", model: "feature", endpoint_id: "feature", feature: "session_id", session_id: "prompt_id", prompt_id: "rows" };

const DAY = 86_400_000;

/** @param {string} date @param {number} days */
export function addDays(date, days) {
  return new Date(Date.parse(`${date}T00:00:00Z`) + days * DAY).toISOString().substring(0, 10);
}

/** @param {Filter[]} filters */
function filterQuery(filters) {
  return filters.map((it) => (it.value === null ? `&without[]=${it.dimension}` : `&${it.dimension}[]=${encodeURIComponent(it.value)}`)).join("");
}

/** The range and the filters of a question, as reports and lists of requests take them. @param {Question} question */
export function rangeQuery({ from, to, zone, filters }) {
  return `starting_on=${from}&ending_on=${to}&time_zone=${encodeURIComponent(zone)}${filterQuery(filters)}`;
}

/** A report of the usage mode, and of another dimension. @param {Question} question @param {string} width @param {string} dimension */
export function reportQuery(question, width, dimension) {
  const group = dimension === "usage_mode" ? "" : `&group_by[]=${dimension}`;
  return `usage-report?bucket_width=${width}&${rangeQuery(question)}&group_by[]=usage_mode${group}`;
}

/** All pages of a report. A bucket may go on on the next page. @param {import("../api.js").Api} api @param {string} query @returns {Promise<{buckets: Bucket[], at: string}>} */
export async function ask(api, query) {
  /** @type {Bucket[]} */
  const buckets = [];
  let page = "";
  let at = "";
  do {
    const { data } = await api.get(api.path(`${query}&limit=10000${page ? `&page=${encodeURIComponent(page)}` : ""}`));
    const report = /** @type {import("../types.js").Report} */ (data);
    for (const bucket of report.data) {
      const last = buckets.at(-1);
      if (last?.starting_at === bucket.starting_at) last.results.push(...bucket.results);
      else buckets.push(bucket);
    }
    page = report.next_page ?? "";
    at = report.data_as_of;
  } while (page);
  return { buckets, at };
}
