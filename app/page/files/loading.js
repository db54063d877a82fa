// Hooks: load data, run a write, count down. Each section handles its own states.
import { useCallback, useContext, useEffect, useRef, useState } from "./vendor/hooks.js";
import { createContext } from "./vendor/preact.js";
import { ApiError } from "./api.js";

/**
 * What all sections share.
 * @typedef {object} Shared
 * @property {import("./api.js").Api} api
 * @property {import("./types.js").Session} session
 * @property {(scope: string) => boolean} may
 * @property {() => void} refresh reload the status, after a write
 * @property {import("./app.js").Status} status
 * @property {(section: string, focus?: string) => void} go
 */

/** @type {import("./vendor/preact.js").Context<Shared>} */
export const SharedContext = createContext(/** @type {any} */ (null));

export function useShared() {
  return useContext(SharedContext);
}

/**
 * @template T
 * @typedef {{data: T | null, error: ApiError | null, isLoading: boolean, isStale: boolean, at: string | null, reload: () => void}} Loaded
 */

/** Any thrown value as an error that may be shown. The value itself is dropped. @param {unknown} error */
export function shown(error) {
  return error instanceof ApiError ? error : new ApiError({ status: 0, code: "unexpected" });
}

/**
 * Load data, and again when `inputs` or `also` change. What was loaded before stays until the next response: stale, if
 * `inputs` changed.
 * @template T
 * @param {() => Promise<T>} load
 * @param {readonly unknown[]} inputs
 * @param {readonly unknown[]} [also]
 * @returns {Loaded<T>}
 */
export function useLoad(load, inputs, also = []) {
  const [state, setState] = useState(
    /** @type {Omit<Loaded<T>, "reload" | "isStale"> & {of: readonly unknown[]}} */ ({ data: null, error: null, isLoading: true, at: null, of: inputs }),
  );
  const [turn, setTurn] = useState(0);
  const reload = useCallback(() => setTurn((before) => before + 1), []);
  useEffect(() => {
    let isCurrent = true;
    setState((before) => ({ ...before, isLoading: true }));
    load().then(
      (data) => isCurrent && setState({ data, error: null, isLoading: false, at: new Date().toISOString(), of: inputs }),
      (error) => isCurrent && setState((before) => ({ ...before, error: shown(error), isLoading: false })),
    );
    return () => {
      isCurrent = false;
    };
  }, [turn, ...inputs, ...also]);
  const isStale = state.data !== null && inputs.some((it, index) => it !== state.of[index]);
  return { ...state, isStale, reload };
}

/**
 * Run one write at a time. Its outcome stands under its button until the next one.
 * @returns {{isBusy: boolean, error: ApiError | null, done: string | null,
 *   run: (work: () => Promise<string | void>) => Promise<boolean>, clear: () => void}}
 */
export function useWrite() {
  const [state, setState] = useState(
    /** @type {{isBusy: boolean, error: ApiError | null, done: string | null}} */ ({ isBusy: false, error: null, done: null }),
  );
  const isMounted = useRef(true);
  useEffect(() => () => void (isMounted.current = false), []);
  const set = (/** @type {typeof state} */ next) => isMounted.current && setState(next);
  const run = async (/** @type {() => Promise<string | void>} */ work) => {
    set({ isBusy: true, error: null, done: null });
    try {
      const done = await work();
      set({ isBusy: false, error: null, done: done ?? null });
      return true;
    } catch (error) {
      set({ isBusy: false, error: shown(error), done: null });
      return false;
    }
  };
  return { ...state, run, clear: () => set({ isBusy: false, error: null, done: null }) };
}

/** Seconds until a retry may succeed; 0 when a retry need not wait. @param {ApiError | null} error */
export function useCountdown(error) {
  const [left, setLeft] = useState(0);
  useEffect(() => {
    const end = Date.now() + (error?.retryAfter ?? 0) * 1000;
    setLeft(error?.retryAfter ?? 0);
    if (!error?.retryAfter) return;
    const timer = setInterval(() => {
      const seconds = Math.max(0, Math.ceil((end - Date.now()) / 1000));
      setLeft(seconds);
      if (seconds === 0) clearInterval(timer);
    }, 1000);
    return () => clearInterval(timer);
  }, [error]);
  return left;
}

/** All entries of a list, page by page, up to a bound. @type {import("./api_types.js").ReadAll} */
export const readAll = async (api, template, parts, most = 1000) => {
  const found = /** @type {any[]} */ ([]);
  const get = /** @type {(template: string, parts: object) => Promise<any>} */ (api.get);
  const { query, ...others } = /** @type {import("./api_types.js").Loose} */ (parts ?? {});
  let page = undefined;
  do {
    /** @type {any} */
    const answer = await get(template, { ...others, query: { ...query, limit: 100, page } });
    found.push(...answer.data.data);
    page = answer.data.next_page ?? undefined;
  } while (page && found.length < most);
  return found;
};
