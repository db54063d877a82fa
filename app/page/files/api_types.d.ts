// Types of requests, from the generated types of the OpenAPI document: an unknown path, parameter, header or field of a
// body is a type error.
import type { paths } from "byok-openapi";

export type Method = "get" | "post" | "put" | "patch" | "delete";
type OfOrganization = "/v1/organizations/{organization_id}/";
type WithMethod<M extends Method> = {
  [P in keyof paths]: paths[P] extends Record<M, { responses: object }> ? P : never;
}[keyof paths];
type Short<P> = P extends `${OfOrganization}${infer Rest}` ? Rest : P extends `/v1/organizations/${string}` ? never : P;

/** A path of the document. Those of an organization are written without their beginning: `usage-mode`. */
export type Template<M extends Method> = Short<WithMethod<M>>;
type Full<T extends string> = T extends keyof paths ? T : `${OfOrganization}${T}` & keyof paths;
type Operation<M extends Method, T extends string> = Full<T> extends infer P extends keyof paths
  ? paths[P] extends Record<M, infer O> ? O : never
  : never;

type Parameters<O> = O extends { parameters: infer P } ? P : never;
type PathOf<O> = Parameters<O> extends { path: infer P } ? Omit<P, "organization_id"> : {};
type QueryOf<O> = Parameters<O> extends { query?: infer Q } ? Exclude<Q, undefined> : never;
type HeadersOf<O> = Parameters<O> extends { header?: infer H } ? Exclude<H, undefined> : never;
type BodyOf<O> = O extends { requestBody?: infer B }
  ? Exclude<B, undefined> extends { content: { "application/json": infer J } } ? J : never
  : never;
type Path<O> = keyof PathOf<O> extends never ? { path?: never } : { path: PathOf<O> };
type Query<O> = [QueryOf<O>] extends [never] ? { query?: never } : { query?: QueryOf<O> };
type Headers<O> = [HeadersOf<O>] extends [never] ? { headers?: never } : { headers?: HeadersOf<O> };
type Body<O> = [BodyOf<O>] extends [never] ? { body?: never } : O extends { requestBody: object } ? { body: BodyOf<O> } : { body?: BodyOf<O> };

/** What a request needs besides its path. */
export type Parts<M extends Method, T extends string> = Path<Operation<M, T>> & Query<Operation<M, T>> & Headers<Operation<M, T>> & Body<Operation<M, T>>;
/** The parts may be left out if none is required. */
export type Given<M extends Method, T extends string> = {} extends Parts<M, T> ? [parts?: Parts<M, T>] : [parts: Parts<M, T>];

type Json<R> = R extends { content: { "application/json": infer D } } ? D : never;
type Responses<O> = O extends { responses: infer R } ? R : never;
/** The body of a successful response. */
export type Data<M extends Method, T extends string> = Responses<Operation<M, T>> extends infer R
  ? Json<R[keyof R & (200 | 201)]>
  : never;

export interface Answer<T> { data: T; etag: string | null; }
export interface Get {
  <T extends Template<"get">>(template: T, ...given: Given<"get", T>): Promise<Answer<Data<"get", T>>>;
}
export interface Send {
  <M extends Method, T extends Template<M>>(method: M, template: T, ...given: Given<M, T>): Promise<Answer<Data<M, T>>>;
}

/** Lists, whose pages are read one after the other. */
export type ListTemplate = { [T in Template<"get">]: Data<"get", T> extends { data: unknown[]; next_page: string | null } ? T : never }[Template<"get">];
export type Item<T extends ListTemplate> = Data<"get", T> extends { data: (infer I)[] } ? I : never;
export interface ReadAll {
  <T extends ListTemplate>(api: import("./api.js").Api, template: T, parts?: Parts<"get", T>, most?: number): Promise<Item<T>[]>;
}

/** The exports for which a link can be created. */
export type Export = Template<"post"> extends infer T ? (T extends `${infer E}/links` ? E : never) : never;
export type ExportParts<E extends string> = Path<Operation<"post", `${E}/links`>> & Query<Operation<"post", `${E}/links`>>;

/** A request as it is sent, after its types are checked. */
export interface Loose {
  path?: Record<string, string | number>;
  query?: Record<string, unknown>;
  headers?: Record<string, string>;
  body?: unknown;
}
