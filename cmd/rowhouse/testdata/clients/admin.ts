// Drives the admin API with a client generated from its own description: what the compiler accepts must work, and every
// answer must be what the description says of it.
import createClient, { type Middleware } from "openapi-fetch";
import { Ajv2020 } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import type { paths } from "./schema.js";

declare const process: { env: Record<string, string | undefined>; exitCode: number };

const url = process.env.ADMIN_URL ?? "";
const token = process.env.TOKEN ?? "";

// The type of an error is lost where an answer without a body, such as 304, stands beside it.
const code = (error: unknown) => (error as { code?: string } | undefined)?.code;

let asserted = 0;
function is(ok: unknown, what: string): asserts ok {
  asserted++;
  if (!ok) throw new Error(what);
}

// Every answer is held against its schema in the description.
const description = await (await fetch(`${url}/openapi.json`)).json();
const ajv = new Ajv2020({ strict: false, allErrors: true });
(formats as unknown as (a: Ajv2020) => void)(ajv);
ajv.addSchema(description, "openapi.json");
const pointer = (parts: string[]) => "openapi.json#" + parts.map((p) => "/" + p.replaceAll("~", "~0").replaceAll("/", "~1")).join("");
let checked = 0;
const check: Middleware = {
  async onResponse({ request, response, schemaPath }) {
    const method = request.method.toLowerCase();
    const responses = description.paths[schemaPath][method].responses;
    const status = responses[response.status] ? String(response.status) : "default";
    is(responses[status], `${method} ${schemaPath} answers ${response.status}, which is not described`);
    const type = (response.headers.get("content-type") ?? "").replace(/;.*/, "");
    if (!responses[status].content) {
      is((await response.clone().text()) === "", `${method} ${schemaPath} answers a body that is not described`);
      return;
    }
    is(responses[status].content[type], `${method} ${schemaPath} answers ${type}, which is not described`);
    const path = ["paths", schemaPath, method, "responses", status, "content", type, "schema"].map(encodeURIComponent);
    const validate = ajv.compile({ $ref: pointer(path) });
    is(validate(await response.clone().json()), `${method} ${schemaPath}: ${JSON.stringify(validate.errors)}`);
    checked++;
  },
};

const api = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });
api.use(check);

// A tenant, from its birth on.
const begun = await api.POST("/admin/v1/tenants", {
  body: { name: "typed", placement: "shared" },
  params: { header: { "Idempotency-Key": "typed-1" } },
});
is(begun.data && begun.response.status === 202, `create: ${JSON.stringify(begun.error)}`);
const again = await api.POST("/admin/v1/tenants", {
  body: { name: "typed", placement: "shared" },
  params: { header: { "Idempotency-Key": "typed-1" } },
});
is(again.data?.id === begun.data.id && again.response.headers.get("idempotent-replayed") === "true", "the same request is not answered the same");
const ref = { path: { ref: "typed" } };
for (;;) {
  const op = await api.GET("/admin/v1/operations/{id}", { params: { path: { id: begun.data.id } } });
  is(op.data, `operation: ${JSON.stringify(op.error)}`);
  is(op.data.state !== "failed", `operation failed: ${op.data.error}`);
  if (op.data.state === "done") break;
  await new Promise((r) => setTimeout(r, 100));
}
const events = await api.GET("/admin/v1/operations/{id}/events", { params: { path: { id: begun.data.id } } });
is(typeof events.data === "object" && events.data.items.length > 1, `events: ${JSON.stringify(events.data)}`);

const tenant = await api.GET("/admin/v1/tenants/{ref}", { params: ref });
is(tenant.data?.state === "active", `tenant: ${JSON.stringify(tenant.data)}`);
const etag = tenant.response.headers.get("etag") ?? "";
const unchanged = await api.GET("/admin/v1/tenants/{ref}", { params: { ...ref, header: { "If-None-Match": etag } } });
is(unchanged.response.status === 304, "what is unchanged is sent again");
const suspended = await api.POST("/admin/v1/tenants/{ref}/suspend", { params: { ...ref, header: { "If-Match": etag } }, body: { reason: "unpaid" } });
is(suspended.data?.state === "suspended" && suspended.data.state_reason === "unpaid", `suspend: ${JSON.stringify(suspended.error)}`);
const stale = await api.POST("/admin/v1/tenants/{ref}/resume", { params: { ...ref, header: { "If-Match": etag } } });
is(code(stale.error) === "precondition_failed" && stale.response.status === 412, "a stale ETag is not noticed");
const resumed = await api.POST("/admin/v1/tenants/{ref}/resume", { params: ref });
is(resumed.data?.state === "active", "it is not resumed");

// Pages, by the cursor and by the link.
const names: string[] = [];
for (let cursor: string | undefined; ; ) {
  const page = await api.GET("/admin/v1/tenants", { params: { query: { limit: 2, ...(cursor ? { cursor } : {}) } } });
  is(page.data, `list: ${JSON.stringify(page.error)}`);
  names.push(...page.data.items.map((t) => t.name));
  is((page.data.next_cursor !== null) === page.response.headers.has("link"), "Link and next_cursor disagree");
  if (page.data.next_cursor === null) break;
  cursor = page.data.next_cursor;
}
is(names.includes("acme") && names.includes("typed") && new Set(names).size === names.length, `tenants are ${names}`);
const bad = await api.GET("/admin/v1/tenants", { params: { query: { cursor: "RHCANARY" } } });
is(code(bad.error) === "cursor_invalid" && !JSON.stringify(bad.error).includes("RHCANARY"), "a cursor of nobody is taken");

// What the host decides, who may ask, and what was done.
const set = await api.PUT("/admin/v1/settings/{key}", { params: { path: { key: "rest.max_rows" }, query: { tenant: "typed" } }, body: { value: 7 } });
is(set.response.status === 204, `setting: ${JSON.stringify(set.error)}`);
const settings = await api.GET("/admin/v1/settings", { params: { query: { tenant: "typed" } } });
is(settings.data?.items[0]?.value === 7, "the setting is not there");
const made = await api.POST("/admin/v1/tokens", { body: { subject: "typed", permissions: ["tenants.read"], ttl: "1h" } });
is(made.data, `token: ${JSON.stringify(made.error)}`);
const reader = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${made.data.token}` } });
reader.use(check);
is((await reader.GET("/admin/v1/tenants/{ref}", { params: ref })).data, "a token that may read does not");
is((await reader.POST("/admin/v1/tenants/{ref}/suspend", { params: ref })).response.status === 403, "a token that may only read suspends");
is((await api.DELETE("/admin/v1/tokens/{id}", { params: { path: { id: made.data.id } } })).response.status === 204, "the token is not revoked");
is((await reader.GET("/admin/v1/tenants/{ref}", { params: ref })).response.status === 401, "a revoked token is taken");
const audit = await api.GET("/admin/v1/audit", { params: { query: { tenant: "typed", limit: 50 } } });
is(audit.data?.items.some((e) => e.action === "tenant.suspend" && e.actor.address !== ""), `audit: ${JSON.stringify(audit.data)}`);
const databases = await api.GET("/admin/v1/databases", {});
is(databases.data?.items.some((d) => d.kind === "dedicated"), "there are no databases");
const servers = await api.GET("/admin/v1/servers", {});
is(servers.data?.items.length === 1, "there is no server");
const stats = await api.GET("/admin/v1/stats", {});
is((stats.data?.tenants["active"] ?? 0) > 2, `stats: ${JSON.stringify(stats.data)}`);
is(code((await api.GET("/admin/v1/tenants/{ref}", { params: { path: { ref: "nobody" } } })).error) === "not_found", "nobody is somebody");

console.log(`${asserted} assertions, ${checked} answers as described`);
