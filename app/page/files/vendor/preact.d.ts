export type Child = unknown;
export type VNode = { type: unknown };
export function h(type: unknown, props: object | null, ...children: Child[]): VNode;
export function render(child: Child, parent: ParentNode): void;
export const Fragment: unknown;
export interface Context<T> { Provider: (props: { value: T; children?: Child }) => VNode; }
export function createContext<T>(initial: T): Context<T>;
