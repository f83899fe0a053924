package main

// examples are how each verb is used, by its path; a verb that tells its own has none here. A test parses them all.
var examples = map[string][]string{
	"dev":         {"rowhouse dev", "rowhouse dev --data /tmp/play --listen 127.0.0.1:0 -o json", "rowhouse dev --migrations ./migrations"},
	"serve":       {"ROWHOUSE_CATALOG_URL=postgres://… rowhouse serve", "rowhouse serve --config /etc/rowhouse.yaml"},
	"healthcheck": {"rowhouse healthcheck", "rowhouse healthcheck --config /etc/rowhouse.yaml"},
	"version":     {"rowhouse version", "rowhouse version -o json"},
	"bench":       {"rowhouse bench route --quick", "rowhouse bench rest -o json"},
	"completion":  {"source <(rowhouse completion bash)", "rowhouse completion zsh > \"${fpath[1]}/_rowhouse\"", "rowhouse completion fish > ~/.config/fish/completions/rowhouse.fish"},
	"man":         {"rowhouse man /usr/local/share/man/man1"},

	"catalog init":    {"ROWHOUSE_CATALOG_URL=postgres://… ROWHOUSE_CATALOG_KEYS=keys.json rowhouse catalog init"},
	"catalog migrate": {"rowhouse catalog migrate"},
	"catalog check":   {"rowhouse catalog check"},
	"catalog rekey":   {"rowhouse catalog rekey"},
	"catalog confirm": {"rowhouse catalog confirm --yes"},
	"config show":     {"rowhouse config show", "rowhouse config show -o json"},
	"config check":    {"rowhouse config check --config /etc/rowhouse.yaml"},

	"server add":    {"rowhouse server add main --dsn @provisioner.dsn", "echo postgres://… | rowhouse server add main --dsn - --max-connections 200"},
	"server list":   {"rowhouse server list", "rowhouse server list -o name"},
	"server get":    {"rowhouse server get main -o yaml"},
	"server drain":  {"rowhouse server drain main"},
	"server resume": {"rowhouse server resume main"},
	"server remove": {"rowhouse server remove main", "rowhouse server remove main --yes"},

	"database list": {"rowhouse database list", "rowhouse database list --server main -o name"},
	"database get":  {"rowhouse database get rh_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"},

	"database allow-unscoped": {"rowhouse database allow-unscoped rh_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"},
	"database deny-unscoped":  {"rowhouse database deny-unscoped rh_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"},

	"tenant list":     {"rowhouse tenant list", "rowhouse tenant list -o json", "rowhouse --admin-url https://admin.example.com tenant list"},
	"tenant get":      {"rowhouse tenant get acme", "rowhouse tenant get acme -o yaml"},
	"tenant rename":   {"rowhouse tenant rename acme umbrella"},
	"tenant resume":   {"rowhouse tenant resume acme"},
	"tenant adopt":    {"rowhouse tenant adopt acme --dsn @acme.dsn", "echo postgres://… | rowhouse tenant adopt acme --dsn -"},
	"tenant delete":   {"rowhouse tenant delete acme", "rowhouse tenant delete acme --yes --grace 168h --wait"},
	"tenant undelete": {"rowhouse tenant undelete acme --wait"},
	"tenant purge":    {"rowhouse tenant purge acme --wait", "rowhouse tenant purge acme --yes"},
	"tenant promote":  {"rowhouse tenant promote acme --wait", "rowhouse tenant promote acme --server main"},
	"tenant demote":   {"rowhouse tenant demote acme --wait"},
	"tenant move":     {"rowhouse tenant move acme --server other --wait"},

	"domain add":    {"rowhouse domain add shop.acme.example --tenant acme"},
	"domain remove": {"rowhouse domain remove shop.acme.example --tenant acme --yes"},
	"domain list":   {"rowhouse domain list"},

	"op list":   {"rowhouse op list", "rowhouse op list --tenant acme -o json"},
	"op get":    {"rowhouse op get 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"},
	"op watch":  {"rowhouse op watch 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"},
	"op retry":  {"rowhouse op retry 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b --wait"},
	"op cancel": {"rowhouse op cancel 0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"},

	"setting set":   {"rowhouse setting set rest.max_rows 500", "rowhouse setting set rest.schemas '[\"api\"]' --tenant acme"},
	"setting get":   {"rowhouse setting get rest.max_rows", "rowhouse setting get rest.schemas --tenant acme -o json"},
	"setting unset": {"rowhouse setting unset rest.max_rows --tenant acme"},
	"setting list":  {"rowhouse setting list --tenant acme", "rowhouse setting list --known"},

	"token list":   {"rowhouse token list"},
	"token get":    {"rowhouse token get 3fQ9xKmTz2aBc"},
	"token revoke": {"rowhouse token revoke 3fQ9xKmTz2aBc", "rowhouse token revoke 3fQ9xKmTz2aBc --yes"},

	"audit list":   {"rowhouse audit list --since 24h", "rowhouse audit list --tenant acme -o json", "rowhouse audit list --follow"},
	"audit verify": {"rowhouse audit verify"},

	"migrate plan":   {"rowhouse migrate plan", "rowhouse migrate plan ./migrations --exit-code"},
	"migrate up":     {"rowhouse migrate up", "rowhouse migrate up ./migrations --canary acme --soak 10m"},
	"migrate status": {"rowhouse migrate status", "rowhouse migrate status --exit-code --drift -o json"},
	"migrate pause":  {"rowhouse migrate pause"},
	"migrate resume": {"rowhouse migrate resume --detach"},
	"migrate retry":  {"rowhouse migrate retry", "rowhouse migrate retry acme --mark applied --reason 'looked: the index is there'"},
	"migrate skip":   {"rowhouse migrate skip acme --reason 'leaves us on Friday'"},
	"migrate cancel": {"rowhouse migrate cancel"},
	"migrate lint":   {"rowhouse migrate lint ./migrations"},
	"migrate new":    {"rowhouse migrate new add_invoices"},
}
