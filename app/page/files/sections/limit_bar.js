// One spend limit as a bar: managed and BYO as two segments, reserved hatched, thresholds, projection, overrun.
import { html } from "../html.js";
import { useId } from "../vendor/hooks.js";
import { Status } from "../ui.js";
import { money, size, time, utcAndLocal } from "../format.js";

/** @param {{limit: import("../types.js").Limit}} props */
export function LimitBar({ limit }) {
  const isFull = size(limit.spent) >= size(limit.amount);
  const counts = limit.scope.usage_mode === "any" ? "managed and BYO usage" : limit.scope.usage_mode === "byo" ? "BYO usage" : "managed usage";
  const amount = money(limit.amount);
  const parts = [["model", limit.scope.model], ["endpoint", limit.scope.endpoint_id], ["feature", limit.scope.feature]].filter(([, value]) => value);
  return html`<div class="limit">
    <p><strong><bdi>${limit.name}</bdi></strong>: ${money(limit.spent)} of ${amount.startsWith("<") ? `$${limit.amount.amount}` : amount} ${limit.period === "total" ? "in total" : `per ${limit.period}`}.${" "}
      ${isFull ? html`<${Status} kind=${limit.enforcement === "block" ? "bad" : "unsure"}>Full${limit.enforcement === "block" ? ": work that counts is refused" : ""}</${Status}>` : null}</p>
    <${Bar} limit=${limit} />
    <p class="small">Counts ${counts}${parts.map(([name, value], at) => html`${at ? ", " : " of "}${name} <bdi>${value}</bdi>`)}: ${limit.scope.usage_mode === "byo" ? "" : `managed ${money(limit.spent_managed)}`}${
        limit.scope.usage_mode === "any" ? ", " : ""}${limit.scope.usage_mode === "managed" ? "" : `BYO ${money(limit.spent_byo)} (estimated)`}.
      ${size(limit.reserved) > 0 ? ` Reserved ${money(limit.reserved)}.` : ""}
      ${size(limit.overrun) > 0 ? ` Overrun ${money(limit.overrun)}.` : ""}
      ${size(limit.projected) > 0 ? ` Projected ${money(limit.projected)} (wide mark).` : ""}
      ${limit.thresholds.length > 0 ? ` Thresholds at ${limit.thresholds.join(", ")} % (thin marks).` : ""}
      ${limit.period_ends_at ? ` Ends ${utcAndLocal(limit.period_ends_at)}.` : ""}
      ${limit.crossings.map((it) => ` Crossed ${it.threshold} % at ${time(it.crossed_at)}.`).join("")}</p></div>`;
}

/** @param {{limit: import("../types.js").Limit}} props */
function Bar({ limit }) {
  const hatch = useId();
  const amount = size(limit.amount);
  const end = Math.max(amount, size(limit.spent) + size(limit.reserved), size(limit.projected), 0.000001);
  const at = (/** @type {number} */ value) => (value / end) * 100;
  const managed = at(size(limit.spent_managed));
  const byo = at(size(limit.spent_byo));
  return html`<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" role="img"
    aria-label=${`${limit.name}: ${limit.percent_used === null ? "full" : `${limit.percent_used} percent used`}`}>
    <defs><pattern id=${hatch} width="1.2" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch" width="0.5" height="4" /></pattern></defs>
    <rect class="track" x="0" y="2" width=${at(amount)} height="8" />
    <rect class="managed" x="0" y="2" width=${managed} height="8" />
    <rect class="byo" x=${managed} y="2" width=${byo} height="8" />
    <rect x=${managed + byo} y="2" width=${at(size(limit.reserved))} height="8" fill=${`url(#${hatch})`} />
    ${limit.thresholds.map((it) => html`<rect key=${it} class="tick" x=${at((amount * it) / 100) - 0.15} y="0" width="0.3" height="12" />`)}
    ${size(limit.projected) > 0 ? html`<rect class="projected" x=${Math.min(99.4, at(size(limit.projected)))} y="0" width="0.6" height="12" />` : null}</svg>`;
}
