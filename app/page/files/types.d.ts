// What the API sends, from the types that are generated from its OpenAPI document.
import type { components } from "byok-openapi";

type Schemas = components["schemas"];
export type Money = Pick<Schemas["Money"], "amount"> & { currency: string };
export type Attempt = Schemas["LatestAttempt"];
export type Verdict = Schemas["CredentialVerdict"];
export type Previous = Schemas["PreviousVersion"];
export type Rotation = Schemas["Rotation"];
export type Credential = Schemas["Credential"];
export type KeyVersion = Schemas["CredentialVersion"];
export type Scheduled = Schemas["ScheduledSwitch"];
export type ModeState = Schemas["UsageModeState"];
export type BlockerDetail = Schemas["BlockerDetails"];
export type Readiness = Schemas["OrganizationReadiness"];
export type Limit = Schemas["SpendLimit"];
export type ReportRow = Schemas["UsageReportResult"] & { [dimension: string]: unknown };
export type Bucket = Omit<Schemas["UsageReportBucket"], "results"> & { results: ReportRow[] };
export type Report = Omit<Schemas["UsageReport"], "data"> & { data: Bucket[] };
export type Line = Schemas["StatementLine"];
export type Statement = Schemas["BillingStatement"];
export type AuditEvent = Schemas["AuditEvent"];
export type Session = Schemas["Session"];
export type ExportLink = Schemas["ExportLink"];
export type Webhook = Schemas["WebhookEndpoint"];
export type Preview = Schemas["UsageModePreview"];

// The types below are those of the page itself.
export type GetToken = (options: { force: boolean }) => Promise<string>;
export type Problem = Pick<Schemas["Problem"], "status" | "code"> & Partial<Schemas["Problem"]>;
