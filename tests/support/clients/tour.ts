// The tutorial as a program, in strict TypeScript. Every response is used with the type that the document gives it.
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./openapi";

type Schemas = components["schemas"];
interface Job {
  url: string;
  organization: string;
  admin: string;
  service: string;
}
declare const process: { env: Record<string, string | undefined> };

function clientOf(job: Job, token: string): Client<paths> {
  return createClient<paths>({ baseUrl: job.url, headers: { Authorization: `Bearer ${token}` } });
}

function must<T>(result: { data?: T; error?: Schemas["Problem"] }): T {
  if (result.data === undefined) throw new Error(result.error?.code ?? "no response");
  return result.data;
}

const keyOf = (words: string) => `sk-ant-api03-${words}-key-of-this-tour-which-is-not-real-valid`;

async function saveKey(admin: Client<paths>, path: { organization_id: string }): Promise<Schemas["Credential"]> {
  // Neither `provider` nor any other field with a default is required.
  const created = must(
    await admin.POST("/v1/organizations/{organization_id}/provider-credentials", {
      params: { path },
      body: { label: "Acme production", api_key: keyOf("first") },
    }),
  );
  const status: Schemas["ValidationStatus"] = created.validation.status;
  if (status !== "valid") throw new Error(status);
  const refused = await admin.POST("/v1/organizations/{organization_id}/provider-credentials", {
    params: { path, header: { Prefer: "respond-async" } },
    body: { provider: "anthropic", label: "Pasted badly", api_key: "sk-ant-api03 with spaces" },
  });
  const [field] = refused.error?.errors ?? [];
  if (field?.code !== "key_has_whitespace") throw new Error("the error does not name the field");
  const page = must(
    await admin.GET("/v1/organizations/{organization_id}/provider-credentials", {
      params: { path, query: { limit: 20 } },
    }),
  );
  const hints: (string | null)[] = page.data.map((credential) => credential.key_hint);
  if (hints.length !== 1 || page.has_more || page.next_page !== null) throw new Error("not one key");
  return created;
}

async function reportUsage(job: Job, path: { organization_id: string }, eventId: string): Promise<number> {
  const results = must(
    await clientOf(job, job.service).POST("/v1/organizations/{organization_id}/usage-events", {
      params: { path },
      body: {
        events: [
          {
            event_id: eventId,
            started_at: new Date().toISOString(),
            model: "claude-haiku-5-5",
            outcome: "succeeded",
            usage: { input_tokens: 1200, output_tokens: 340 },
          },
        ],
      },
    }),
  );
  return results.accepted;
}

async function switchMode(admin: Client<paths>, path: { organization_id: string }, id: string): Promise<boolean> {
  const state = await admin.PUT("/v1/organizations/{organization_id}/usage-mode", {
    params: { path },
    body: { mode: "byo", credential_id: id },
  });
  must(state);
  if (state.response.headers.get("ETag") === null) throw new Error("no ETag");
  const readiness = must(await admin.GET("/v1/organizations/{organization_id}/readiness", { params: { path } }));
  const reasons: (Schemas["Reason"] | null)[] = readiness.details.map((detail) => detail.reason);
  return readiness.ready && reasons.length === 0;
}

async function readReport(admin: Client<paths>, path: { organization_id: string }) {
  const query = {
    bucket_width: "all" as const,
    "group_by[]": ["usage_mode" as const, "model" as const],
    starting_at: new Date(Date.now() - 86_400_000).toISOString(),
  };
  const report = must(
    await admin.GET("/v1/organizations/{organization_id}/usage-report", { params: { path, query } }),
  );
  // A union with string, as it would be if CSV shared the operation, would not compile here.
  const requests = report.data.flatMap((bucket) => bucket.results.map((row): number => row.requests));
  const rows = must(
    await admin.GET("/v1/organizations/{organization_id}/usage-events", {
      params: { path, query: { "without[]": ["feature"], limit: 100 } },
    }),
  );
  const csv = await admin.GET("/v1/organizations/{organization_id}/usage-report.csv", {
    params: { path, query },
    parseAs: "text",
  });
  const lines: string = must(csv);
  return {
    requests,
    rows: rows.data.map((row): string => row.event_id),
    lines: lines.trim().split("\r\n").length,
    as_of: csv.response.headers.get("Data-As-Of") !== null && report.data_as_of !== "",
  };
}

async function limitSpend(job: Job, admin: Client<paths>, path: { organization_id: string }) {
  const limit = must(
    await admin.POST("/v1/organizations/{organization_id}/spend-limits", {
      params: { path },
      body: {
        name: "Monthly budget",
        amount: { amount: "250.00", currency: "USD" },
        period: "month",
        scope: { usage_mode: "any" },
      },
    }),
  );
  const percent: number | null = limit.percent_used;
  const service = clientOf(job, job.service);
  const granted = must(
    await service.POST("/v1/organizations/{organization_id}/spend-reservations", {
      params: { path },
      body: { model: "claude-haiku-5-5", input_tokens: 1200, max_output_tokens: 4096 },
    }),
  );
  const exceeded = await service.POST("/v1/organizations/{organization_id}/spend-reservations", {
    params: { path },
    body: { amount: { amount: "300.00", currency: "USD" } },
  });
  return { percent, state: granted.state, status: exceeded.response.status, limit: exceeded.error?.limit_name ?? null };
}

async function readBill(job: Job, admin: Client<paths>, path: { organization_id: string }): Promise<string[]> {
  must(
    await clientOf(job, job.service).PUT("/v1/organizations/{organization_id}/subscription", {
      params: { path },
      body: {
        plan: "production",
        monthly_fee: { amount: "99.00", currency: "USD" },
        included_endpoints: 2,
        endpoint_overage_fee: { amount: "10.00", currency: "USD" },
      },
    }),
  );
  const subscription = must(
    await admin.GET("/v1/organizations/{organization_id}/subscription", { params: { path } }),
  );
  const statement = must(
    await admin.GET("/v1/organizations/{organization_id}/billing-statements/{month}", {
      params: { path: { ...path, month: new Date().toISOString().slice(0, 7) } },
    }),
  );
  const preview = must(
    await admin.POST("/v1/organizations/{organization_id}/usage-mode/preview", {
      params: { path },
      body: { mode: "managed", effective_at: new Date(Date.now() + 604_800_000).toISOString() },
    }),
  );
  return [subscription.plan, statement.total.amount, preview.mode];
}

async function rotateKey(admin: Client<paths>, path: { organization_id: string }, id: string) {
  const ofCredential = { ...path, credential_id: id };
  const rotation = must(
    await admin.POST("/v1/organizations/{organization_id}/provider-credentials/{credential_id}/rotations", {
      params: { path: ofCredential, header: { "Idempotency-Key": crypto.randomUUID() } },
      body: { api_key: keyOf("second") },
    }),
  );
  const credential = must(
    await admin.GET("/v1/organizations/{organization_id}/provider-credentials/{credential_id}", {
      params: { path: ofCredential },
    }),
  );
  const events = must(
    await admin.GET("/v1/organizations/{organization_id}/audit-events", {
      params: { path, query: { limit: 2, action: "rotation.activated" } },
    }),
  );
  const safe: boolean = credential.previous?.safe_to_revoke ?? false;
  return { state: rotation.state, version: credential.key_version, safe, actions: events.data.map((it) => it.action) };
}

async function tour(job: Job): Promise<unknown> {
  const admin = clientOf(job, job.admin);
  const path = { organization_id: job.organization };
  const session = must(await admin.GET("/v1/session"));
  const credential = await saveKey(admin, path);
  const accepted = [await reportUsage(job, path, "first"), await reportUsage(job, path, "first")];
  return {
    organization: session.organization_id,
    accepted,
    ready: await switchMode(admin, path, credential.id),
    second: await reportUsage(job, path, "second"),
    report: await readReport(admin, path),
    spend: await limitSpend(job, admin, path),
    bill: await readBill(job, admin, path),
    rotation: await rotateKey(admin, path, credential.id),
  };
}

const job: Job = JSON.parse(process.env["BYOK_JOB"] ?? "{}");
console.log(JSON.stringify(await tour(job)));
