// Binds htm to Preact. No HTML is ever parsed: htm turns templates into calls of `h`.
import htm from "./vendor/htm.js";
import { h } from "./vendor/preact.js";

export const html = htm.bind(h);
