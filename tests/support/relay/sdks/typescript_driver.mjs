// Runs where the npm package `@anthropic-ai/sdk` is installed. Reads a job as JSON from stdin and writes what the SDK made
// of every scenario as JSON to stdout.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.cwd(), "package.json"));
const { default: Anthropic } = await import(pathToFileURL(require.resolve("@anthropic-ai/sdk")).href);
const version = JSON.parse(
  readFileSync(join(process.cwd(), "node_modules/@anthropic-ai/sdk/package.json"), "utf8"),
).version;

const QUESTION = [{ role: "user", content: "Wie heißt du? 🦜" }];
const TOOL = { name: "weather", description: "Weather", input_schema: { type: "object", properties: {} } };
const COMMON = { model: "claude-haiku-5-5", max_tokens: 100, messages: QUESTION };

async function all(iterable) {
  const found = [];
  for await (const one of iterable) found.push(one);
  return found;
}

const CALLS = {
  create: (client) => client.messages.create(COMMON),
  tools: (client) => client.messages.create({ ...COMMON, tools: [TOOL] }),
  beta: (client) => client.beta.messages.create({ ...COMMON, betas: ["context-1m-2025-08-07", "other"] }),
  stream_helper: async (client) => {
    const stream = client.messages.stream(COMMON);
    const events = await all(stream);
    return { events, final: await stream.finalMessage() };
  },
  raw_stream: async (client) => all(await client.messages.create({ ...COMMON, stream: true })),
  raw_response: async (client) => {
    const { response } = await client.messages.create(COMMON).withResponse();
    const names = ["request-id", "content-type", "anthropic-ratelimit-requests-remaining"];
    return Object.fromEntries(names.map((name) => [name, response.headers.get(name)]));
  },
  count_tokens: (client) =>
    client.messages.countTokens({ model: COMMON.model, messages: QUESTION, system: "Be brief." }),
  models: (client) => all(client.models.list({ limit: 2 })),
  model: (client) => client.models.retrieve("claude-haiku-5-5"),
};

function errorOf(error) {
  return {
    class: error.constructor.name,
    is_api_error: error instanceof Anthropic.APIError,
    status: error.status ?? null,
    type: error.type ?? null,
    body: error.error ?? null,
    message: error.message,
    request_id: error.requestID ?? null,
  };
}

async function run(job) {
  const results = [];
  for (const scenario of job.scenarios) {
    const client = new Anthropic({
      baseURL: job.base_url,
      apiKey: job.api_key,
      defaultHeaders: { "x-stainless-script": scenario.script, ...job.headers },
    });
    try {
      results.push({ result: (await CALLS[scenario.call](client)) ?? null });
    } catch (error) {
      results.push({ error: errorOf(error) });
    }
  }
  return results;
}

async function runAll(jobs) {
  const results = [];
  for (const job of jobs) results.push(await run(job));
  return results;
}

async function parse(streams) {
  const ends = [];
  for (const encoded of streams) {
    const body = Buffer.from(encoded, "base64");
    const client = new Anthropic({
      baseURL: "http://fake",
      apiKey: "k",
      fetch: async () => new Response(body, { headers: { "content-type": "text/event-stream" } }),
    });
    let events = 0;
    try {
      for await (const _ of await client.messages.create({ ...COMMON, stream: true })) events += 1;
      ends.push([null, events]);
    } catch (error) {
      ends.push([error instanceof Anthropic.APIError ? "APIStatusError" : error.constructor.name, events]);
    }
  }
  return ends;
}

const job = JSON.parse(readFileSync(0, "utf8"));
const results = "streams" in job ? await parse(job.streams) : await runAll(job.runs);
process.stdout.write(JSON.stringify({ version, results }));
