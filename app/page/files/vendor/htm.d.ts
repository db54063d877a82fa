import type { VNode } from "./preact.js";
type Html = (strings: TemplateStringsArray, ...values: unknown[]) => VNode;
interface Htm { bind(create: Function): Html; }
declare const htm: Htm;
export default htm;
