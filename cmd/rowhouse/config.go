package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// key is one thing that can be configured.
type key struct {
	name, fallback string
	kind           kind
	secret         bool
	help           string
}

// kind reads the text of a value, or says what it wants.
type kind struct {
	want string
	read func(string) (any, error)
}

var (
	text     = kind{"a text", func(s string) (any, error) { return s, nil }}
	list     = kind{"a list", func(s string) (any, error) { return splitList(s), nil }}
	boolean  = kind{"true or false", func(s string) (any, error) { return strconv.ParseBool(s) }}
	count    = kind{"a whole number of 1 or more", readCount}
	duration = kind{`a duration with a unit, such as "30s"`, readDuration}
	size     = kind{`a size, such as "10MiB"`, func(s string) (any, error) { return readSize(s) }}
)

func words(allowed ...string) kind {
	return kind{"one of " + strings.Join(allowed, ", "), func(s string) (any, error) {
		if !slices.Contains(allowed, s) {
			return nil, errors.New("not one of them")
		}
		return s, nil
	}}
}

// keys are all there is to configure, in the order of the documentation.
var keys = []key{
	{name: "catalog.url", kind: text, secret: true, help: "the catalog's connection string"},
	{name: "catalog.keys", kind: text, help: "keyset file that seals connection strings"},
	{name: "listen", fallback: ":8080", kind: text, help: "address of the data plane"},
	{name: "admin.listen", fallback: "127.0.0.1:8081", kind: text, help: "address of the control plane"},
	{name: "admin.hosts", kind: list, help: "names by which the control plane is reached, besides loopback"},
	{name: "admin.destructive_per_minute", fallback: "120", kind: count, help: "how often a token may take something away in a minute"},
	{name: "tenancy.enabled", fallback: "true", kind: boolean, help: "false: every request is tenant default"},
	{name: "tenancy.resolve.order", fallback: "token,domain,header,cookie", kind: list, help: "token, domain, header, cookie, path, query"},
	{name: "tenancy.resolve.domains", fallback: "{tenant}.localhost", kind: list, help: "host patterns"},
	{name: "tenancy.resolve.header", fallback: "X-Tenant", kind: list, help: "the tenant header and its aliases"},
	{name: "tenancy.resolve.cookie", fallback: "rowhouse_tenant", kind: text, help: "the tenant cookie"},
	{name: "tenancy.trusted_proxies", kind: list, help: "networks whose forwarded headers are believed"},
	{name: "auth.jwt_secret", kind: text, secret: true, help: "HS256 secret of 32 bytes or more"},
	{name: "auth.jwks_url", kind: text, help: "where keys are published"},
	{name: "auth.jwks_file", kind: text, help: "a file of keys"},
	{name: "auth.issuer", kind: text, help: "the issuer tokens must have"},
	{name: "auth.audience", kind: text, help: "the audience tokens must have"},
	{name: "auth.tenant_claim", fallback: "tenant", kind: text, help: "claim that names the tenant"},
	{name: "auth.role_claim", fallback: "role", kind: text, help: "claim that names the database role"},
	{name: "auth.leeway", fallback: "30s", kind: duration, help: "tolerance for clocks"},
	{name: "auth.require_exp", fallback: "true", kind: boolean, help: "refuse tokens that never expire"},
	{name: "auth.require_audience", fallback: "true", kind: boolean, help: "refuse tokens without audience when one is configured"},
	{name: "router.max_pools", fallback: "1000", kind: count, help: "pools kept when nobody uses them"},
	{name: "router.max_conns_per_database", fallback: "10", kind: count, help: "connections to one database"},
	{name: "router.idle_timeout", fallback: "60s", kind: duration, help: "how long an idle connection is kept"},
	{name: "router.acquire_timeout", fallback: "5s", kind: duration, help: "how long a request waits for a connection"},
	{name: "router.connect_timeout", fallback: "3s", kind: duration, help: "how long connecting may take"},
	{name: "rest.schemas", fallback: "public", kind: list, help: "exposed schemas; the first is the default"},
	{name: "rest.extra_search_path", fallback: "extensions", kind: list, help: "schemas searched besides"},
	{name: "rest.anon_role", fallback: "anon", kind: text, help: "role of requests without a token; empty refuses them"},
	{name: "rest.max_rows", fallback: "1000", kind: count, help: "rows of one answer"},
	{name: "rest.tx_end", fallback: "commit", kind: words("commit", "commit-allow-override", "rollback", "rollback-allow-override"), help: "how a request's transaction ends"},
	{name: "rest.aggregates", fallback: "true", kind: boolean, help: "let requests sum, count and average"},
	{name: "rest.plan", fallback: "false", kind: boolean, help: "answer requests for plans, in dedicated databases"},
	{name: "rest.server_timing", fallback: "false", kind: boolean, help: "tell how long each step took"},
	{name: "rest.pre_request", kind: text, help: "a function called first in every transaction"},
	{name: "rest.max_body", fallback: "10MiB", kind: size, help: "size of a request's body"},
	{name: "jobs.enabled", fallback: "true", kind: boolean, help: "carry out operations in this process"},
	{name: "audit.requests", fallback: "writes", kind: words("off", "writes", "all"), help: "which requests are recorded in their tenant's database"},
	{name: "audit.retention", fallback: "2160h", kind: duration, help: "how long records of requests are kept"},
	{name: "delete.grace", fallback: "720h", kind: duration, help: "how long a deleted tenant can be taken back"},
	{name: "move.max_pause", fallback: "2s", kind: duration, help: "how long writes may have to wait for their tenant to be moved"},
	{name: "move.drain", fallback: "1s", kind: duration, help: "how long a move waits for a transaction that writes before it lets others in again"},
	{name: "promote.cooling", fallback: "24h", kind: duration, help: "how long what a moved tenant left behind is kept"},
	{name: "exports.dir", fallback: "/var/lib/rowhouse/exports", kind: text, help: "where rows are kept when a tenant is deleted, and until they are imported"},
	{name: "log.level", fallback: "info", kind: words("debug", "info", "warn", "error"), help: "what is logged"},
	{name: "log.format", fallback: "json", kind: words("json", "text"), help: "how it is logged"},
}

// notKeys are variables of the command line and of tests that look like keys.
var notKeys = []string{"ADMIN_URL", "TOKEN", "DATA", "PG_BIN", "SEED", "FAILPOINT", "CONFIG"}

// config is what is configured, and where each value comes from.
type config struct {
	*koanf.Koanf
	origin map[string]string
}

// maxConfigFile is the largest file that is read.
const maxConfigFile = 1 << 20

// layer is one source of values: a key's text and where it stands.
type layer map[string]struct{ text, origin string }

// loadConfig puts flags over environment over file over defaults. All that is wrong comes back at once, a line each.
func loadConfig(file string, environ []string, flags map[string]string) (*config, error) {
	var problems []error
	fileLayer, wrong := readFile(file)
	problems = append(problems, wrong...)
	envLayer, wrong := readEnv(environ)
	problems = append(problems, wrong...)
	flagLayer := layer{}
	for name, value := range flags {
		flagLayer[name] = struct{ text, origin string }{value, "--" + strings.ReplaceAll(name, ".", "-")}
	}
	c := &config{koanf.New("."), map[string]string{}}
	for _, k := range keys {
		value, origin := k.fallback, "default"
		for _, l := range []layer{fileLayer, envLayer, flagLayer} {
			if v, ok := l[k.name]; ok {
				value, origin = v.text, v.origin
			}
		}
		parsed, err := k.kind.read(value) // an empty value is one too: it switches nothing off by accident
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %s: want %s", origin, k.name, k.kind.want))
			parsed, _ = k.kind.read(k.fallback) // so that what else is wrong is found as well
		}
		c.origin[k.name] = origin
		if err := c.Load(confmap.Provider(map[string]any{k.name: parsed}, "."), nil); err != nil {
			return nil, err
		}
	}
	problems = append(problems, c.check()...)
	if err := errors.Join(problems...); err != nil {
		return nil, &coded{err: err, code: exitConfig}
	}
	return c, nil
}

// problem is about the value of a key, wherever that was said.
func (c *config) problem(name, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %s", c.origin[name], name, fmt.Sprintf(format, args...))
}

// check finds values that do not fit each other.
func (c *config) check() []error {
	var problems []error
	add := func(name, format string, args ...any) { problems = append(problems, c.problem(name, format, args...)) }
	known := []string{"token", "domain", "header", "cookie", "path", "query"}
	for _, signal := range c.Strings("tenancy.resolve.order") {
		if !slices.Contains(known, signal) {
			add("tenancy.resolve.order", "%q is not one of %s", signal, strings.Join(known, ", "))
		}
	}
	if len(c.Strings("tenancy.resolve.order")) == 0 && c.Bool("tenancy.enabled") {
		add("tenancy.resolve.order", "is empty: no request could name its tenant")
	}
	for _, pattern := range c.Strings("tenancy.resolve.domains") {
		if err := tenants.CheckDomain(pattern); err != nil {
			add("tenancy.resolve.domains", "%q: want {tenant} and one domain, as in {tenant}.example.com", pattern)
		}
	}
	for _, network := range c.Strings("tenancy.trusted_proxies") {
		if _, err := netip.ParsePrefix(network); err != nil {
			if _, err := netip.ParseAddr(network); err != nil {
				add("tenancy.trusted_proxies", "%q is no network, such as 10.0.0.0/8", network)
			}
		}
	}
	if s := c.String("auth.jwt_secret"); s != "" && len(s) < 32 {
		add("auth.jwt_secret", "is shorter than 32 bytes")
	}
	if u := c.String("auth.jwks_url"); u != "" {
		if parsed, err := url.Parse(u); err != nil || parsed.Scheme != "https" || parsed.Host == "" {
			add("auth.jwks_url", "want an https URL")
		}
		for _, needed := range []string{"auth.issuer", "auth.audience"} {
			if c.String(needed) == "" {
				add(needed, "is needed beside auth.jwks_url")
			}
		}
	}
	for _, name := range []string{"rest.schemas", "rest.extra_search_path"} {
		for _, schema := range c.Strings(name) {
			if !tenants.Exposable(schema) {
				add(name, "%.63q can never be exposed", schema)
			}
		}
	}
	if slices.Contains(c.Strings("tenancy.resolve.order"), "header") && len(c.Strings("tenancy.resolve.header")) == 0 {
		add("tenancy.resolve.header", "is empty, and header stands in tenancy.resolve.order")
	}
	if slices.Contains(c.Strings("tenancy.resolve.order"), "cookie") && c.String("tenancy.resolve.cookie") == "" {
		add("tenancy.resolve.cookie", "is empty, and cookie stands in tenancy.resolve.order")
	}
	if len(c.Strings("rest.schemas")) == 0 {
		add("rest.schemas", "is empty: nothing would be served")
	}
	if a, b := c.String("listen"), c.String("admin.listen"); a == b && !strings.HasSuffix(a, ":0") {
		add("admin.listen", "is the same as listen")
	}
	return problems
}

// readFile flattens a YAML file into keys and where they stand.
func readFile(file string) (layer, []error) {
	values := layer{}
	if file == "" {
		return values, nil
	}
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, []error{fmt.Errorf("%s: cannot be read", file)}
	case info.Size() > maxConfigFile:
		return nil, []error{fmt.Errorf("%s: is larger than 1 MiB", file)}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, []error{fmt.Errorf("%s: cannot be read", file)}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(content, &doc); err != nil {
		return nil, []error{fmt.Errorf("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	var problems []error
	if len(doc.Content) > 0 {
		flatten(doc.Content[0], "", file, values, &problems)
	}
	return values, problems
}

func flatten(node *yaml.Node, prefix, file string, values layer, problems *[]error) {
	at := func(n *yaml.Node) string { return fmt.Sprintf("%s:%d", file, n.Line) }
	if node.Kind != yaml.MappingNode {
		*problems = append(*problems, fmt.Errorf("%s: %s: want keys and values", at(node), strings.TrimSuffix(prefix, ".")))
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		k, v := node.Content[i], node.Content[i+1]
		name := prefix + k.Value
		switch {
		case v.Kind == yaml.AliasNode || v.Anchor != "":
			*problems = append(*problems, fmt.Errorf("%s: %s: aliases are not taken", at(k), name))
		case isKey(name):
			text, ok := scalarOrList(v)
			if !ok {
				*problems = append(*problems, fmt.Errorf("%s: %s: want %s", at(v), name, keyNamed(name).kind.want))
				continue
			}
			if _, twice := values[name]; twice {
				*problems = append(*problems, fmt.Errorf("%s: %s: stands there twice", at(k), name))
			}
			values[name] = struct{ text, origin string }{text, at(v)}
		case v.Kind == yaml.MappingNode && isPrefix(name):
			flatten(v, name+".", file, values, problems)
		default:
			*problems = append(*problems, fmt.Errorf("%s: %s: is not known%s", at(k), name, suggestion(name)))
		}
	}
}

func scalarOrList(v *yaml.Node) (string, bool) {
	switch v.Kind {
	case yaml.ScalarNode:
		if v.Tag == "!!null" {
			return "", true
		}
		return v.Value, true
	case yaml.SequenceNode:
		items := make([]string, len(v.Content))
		for i, item := range v.Content {
			if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
				return "", false
			}
			items[i] = item.Value
		}
		return strings.Join(items, ","), true
	}
	return "", false
}

// readEnv matches ROWHOUSE_ variables against the known keys; one that ends in _FILE names a file that holds the value.
func readEnv(environ []string) (layer, []error) {
	values := layer{}
	var problems []error
	byVariable := map[string]key{}
	for _, k := range keys {
		byVariable[variable(k.name)] = k
	}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		short, ours := strings.CutPrefix(name, "ROWHOUSE_")
		if !ours || slices.Contains(notKeys, short) || isInjected(short) || strings.HasPrefix(name, catalog.SecretVariables) {
			continue
		}
		if k, ok := byVariable[name]; ok {
			values[k.name] = struct{ text, origin string }{value, name}
			continue
		}
		k, ok := byVariable[strings.TrimSuffix(name, "_FILE")]
		if !ok || !strings.HasSuffix(name, "_FILE") {
			problems = append(problems, fmt.Errorf("%s: is not known%s", name, suggestVariable(name)))
			continue
		}
		content, err := os.ReadFile(value)
		if err != nil || len(content) > maxConfigFile {
			problems = append(problems, fmt.Errorf("%s: %s: the file cannot be read", name, k.name))
			continue
		}
		values[k.name] = struct{ text, origin string }{strings.TrimRight(string(content), "\r\n"), name}
	}
	return values, problems
}

// isInjected recognises what an orchestrator sets for a service of this name.
func isInjected(short string) bool {
	return strings.Contains(short, "SERVICE_") || short == "PORT" || strings.HasPrefix(short, "PORT_") ||
		strings.Contains(short, "_PORT_") || strings.HasSuffix(short, "_PORT")
}

func variable(name string) string {
	return "ROWHOUSE_" + strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
}

func keyNamed(name string) key {
	for _, k := range keys {
		if k.name == name {
			return k
		}
	}
	return key{}
}

func isKey(name string) bool { return keyNamed(name).name != "" }

func isPrefix(name string) bool {
	for _, k := range keys {
		if strings.HasPrefix(k.name, name+".") {
			return true
		}
	}
	return false
}

// suggestion finds the known key that is nearest to name.
func suggestion(name string) string {
	return meant(name, func(k key) string { return k.name })
}

// suggestVariable finds the known variable that is nearest to name.
func suggestVariable(name string) string {
	return meant(name, func(k key) string { return variable(k.name) })
}

func meant(name string, of func(key) string) string {
	best, least := "", 4
	for _, k := range keys {
		if d := editDistance(name, of(k)); d < least {
			best, least = of(k), d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func splitList(s string) []string {
	items := []string{}
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func readCount(s string) (any, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return nil, errors.New("not a count")
	}
	return n, nil
}

func readDuration(s string) (any, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return nil, errors.New("not a duration")
	}
	return d, nil
}

func readSize(s string) (int64, error) {
	for unit, factor := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if digits, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 32)
			if err != nil || n < 1 {
				return 0, errors.New("not a size")
			}
			return n * factor, nil
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, errors.New("not a size")
	}
	return n, nil
}

// duration is the value of a key of that kind.
func (c *config) duration(name string) time.Duration {
	d, _ := c.Get(name).(time.Duration)
	return d
}

// shown is a key's value for people, secrets redacted.
func (c *config) shown(k key) any {
	switch value := c.Get(k.name).(type) {
	case string:
		if k.secret && value != "" {
			return "[redacted]"
		}
		return value
	case time.Duration:
		return value.String()
	case []string:
		return strings.Join(value, ",")
	default:
		return value
	}
}

// setting is a row of `config show`.
type setting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin string `json:"origin"`
}

func (c *config) settings() []setting {
	rows := make([]setting, len(keys))
	for i, k := range keys {
		rows[i] = setting{k.name, c.shown(k), c.origin[k.name]}
	}
	return rows
}

// defaultConfigFile is read when no --config is given and it is there.
func defaultConfigFile() string {
	for _, file := range []string{"rowhouse.yaml", "/etc/rowhouse/rowhouse.yaml"} {
		if _, err := os.Stat(file); err == nil {
			return filepath.Clean(file)
		}
	}
	return ""
}
