// A question to the usage report: range, zone, dimensions and filters, and how it is asked.

/** @typedef {import("../types.js").Bucket} Bucket */
/** @typedef {{dimension: string, value: string | null}} Filter */
/** @typedef {{from: string, to: string, zone: string, filters: Filter[]}} Question */

export const DIMENSIONS = /** @type {[string, string][]} */ ([
  ["usage_mode", "Mode"], ["model", "Model"], ["feature", "Feature"], ["endpoint_id", "Endpoint"],
  ["session_id", "Session"], ["prompt_id", "Prompt"], ["key_version", "Key version"], ["outcome", "Outcome"],
]);

/** @param {string} dimension */
export function titleOf(dimension) {
  return DIMENSIONS.find(([name]) => name === dimension)?.[1] ?? (dimension === "credential_id" ? "Key" : dimension);
}

/** From a dimension, a click goes down to the next one. @type {Record<string, string>} */
export const BELOW = { usage_mode: "feature", model: "feature", endpoint_id: "feature", feature: "session_id", session_id: "prompt_id", prompt_id: "rows" };

const DAY = 86_400_000;

/** @param {string} date @param {number} days */
export function addDays(date, days) {
  return new Date(Date.parse(`${date}T00:00:00Z`) + days * DAY).toISOString().substring(0, 10);
}

/** @typedef {NonNullable<import("../api_types.js").Parts<"get", "usage-report">["query"]>} ReportParameters */
/** @typedef {NonNullable<ReportParameters["group_by[]"]>[number]} Dimension */

/** The range and the filters of a question, as reports and lists of requests take them. @param {Question} question */
export function rangeQuery({ from, to, zone, filters }) {
  const without = filters.filter((it) => it.value === null).map((it) => /** @type {NonNullable<ReportParameters["without[]"]>[number]} */ (it.dimension));
  const values = Object.fromEntries(filters.filter((it) => it.value !== null).map((it) => [`${it.dimension}[]`, [it.value]]));
  const range = { starting_on: from, ending_on: to, time_zone: zone };
  return { ...range, ...(without.length > 0 ? { "without[]": without } : {}), .../** @type {Pick<ReportParameters, "model[]">} */ (values) };
}

/** A report of the usage mode, and of another dimension. @param {Question} question @param {ReportParameters["bucket_width"]} width @param {string} dimension @returns {ReportParameters} */
export function reportQuery(question, width, dimension) {
  const group = /** @type {Dimension[]} */ (dimension === "usage_mode" ? ["usage_mode"] : ["usage_mode", dimension]);
  return { ...rangeQuery(question), bucket_width: width, "group_by[]": group };
}

/** All pages of a report. A bucket may go on on the next page. @param {import("../api.js").Api} api @param {ReportParameters} query @returns {Promise<{buckets: Bucket[], at: string}>} */
export async function ask(api, query) {
  /** @type {Bucket[]} */
  const buckets = [];
  /** @type {string | undefined} */
  let page;
  let at = "";
  do {
    /** @type {import("../types.js").Report} */
    const report = (await api.get("usage-report", { query: { ...query, limit: 10000, page } })).data;
    for (const bucket of report.data) {
      const last = buckets.at(-1);
      if (last?.starting_at === bucket.starting_at) last.results.push(...bucket.results);
      else buckets.push(bucket);
    }
    page = report.next_page ?? undefined;
    at = report.data_as_of;
  } while (page);
  return { buckets, at };
}
