package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// app is one run of the command: its streams, its environment and the flags that every verb knows.
type app struct {
	lookupEnv func(string) (string, bool)
	stdin     io.Reader
	stdout    io.Writer
	stderr    io.Writer

	level    slog.LevelVar // of the log; it can change while we run
	unlogged atomic.Int64  // lines of the log that could not be written

	began      bool   // a command's own work has begun, so its errors are not about how it was called
	configFile string // --config
	output     string // -o
	adminURL   string // --admin-url
	data       string // --data of the commands that find a running dev
	quiet      bool   // --quiet
}

func (a *app) root() *cobra.Command {
	root := group("rowhouse", "A database-per-tenant router service for PostgreSQL",
		a.dev(), a.serve(), a.catalogGroup(), a.serverGroup(), a.databaseGroup(), a.tenantGroup(), a.domainGroup(), a.migrateGroup(), a.opGroup(),
		a.settingGroup(), a.editionGroup(), a.featureGroup(), a.limitGroup(), a.tokenGroup(), a.auditGroup(), a.bench(), a.configGroup(), a.version(), a.healthcheck(),
		a.completion(), a.man())
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetIn(a.stdin)
	root.Long = "Commands are a noun and a verb: rowhouse tenant list. They reach a running service by --admin-url and ROWHOUSE_TOKEN, else the\ncatalog of ROWHOUSE_CATALOG_URL, else the `rowhouse dev` that serves this directory.\n\nExit status: " + exitCodes()
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(a.helpCommand())
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(wrongFlag)
	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "table", "table, json, yaml or name")
	flags.StringVar(&a.configFile, "config", "", "configuration file (default rowhouse.yaml where it is there)")
	flags.StringVar(&a.adminURL, "admin-url", "", "a running service to speak to (ROWHOUSE_ADMIN_URL)")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but the result")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if !slices.Contains(outputs, a.output) {
			return usage("-o must be table, json, yaml or name")
		}
		return nil
	}
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	a.equip(root)
	return root
}

// outputs are the forms in which every listing and getter can answer.
var outputs = []string{"table", "json", "yaml", "name"}

// group is a noun: it holds verbs and does nothing itself, so that a misspelt verb is an error.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: cobra.ArbitraryArgs, // what is no verb is answered below
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noVerb(c, args[0])
			}
			if c.HasParent() {
				_ = c.Help()
				return usage("%s needs a verb", c.CommandPath())
			}
			return c.Help()
		},
	}
	c.AddCommand(verbs...)
	return c
}

// exactly is cobra.ExactArgs with an error that says which are missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return &coded{err: fmt.Errorf("%s needs %s", c.CommandPath(), strings.Join(names[len(args):], ", ")), code: exitUsage, hint: c.UseLine()}
		case len(args) > len(names):
			hint := c.UseLine()
			if f := c.Flags().Lookup("wait"); f != nil && f.Changed {
				hint = "write --wait=30s, with an equals sign"
			}
			return &coded{err: fmt.Errorf("%s takes no %q", c.CommandPath(), args[len(names)]), code: exitUsage, hint: hint}
		}
		return nil
	}
}

// do wraps a command's work, so that errors from here on are not about how it was called.
func (a *app) do(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		a.began = true
		return fn(c.Context(), args)
	}
}

// show is do for what answers a value, which is printed in the form that was asked for.
func (a *app) show(fn func(ctx context.Context, args []string) (any, error)) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, args []string) error {
		value, err := fn(ctx, args)
		if value != nil {
			if printErr := a.print(value); printErr != nil {
				err = errors.Join(err, printErr)
			}
		}
		return err
	})
}

func (a *app) env(name string) string {
	value, _ := a.lookupEnv(name)
	return value
}

// isTerminal says whether w is a terminal that a person may be looking at.
func (a *app) isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && a.env("CI") == "" && a.env("TERM") != "dumb"
}

// logger writes to stderr: coloured on a terminal, else as configured.
func (a *app) logger(level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	a.level.Set(l)
	out := &logWriter{a.stderr, &a.unlogged}
	switch {
	case a.isTerminal(a.stderr):
		return slog.New(tint.NewTextHandler(out, &tint.Options{Level: &a.level, NoColor: a.env("NO_COLOR") != ""}))
	case format == "text":
		return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: &a.level}))
	}
	return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: &a.level}))
}

// logWriter counts what could not be logged: a full disk must stop nobody, and be seen.
type logWriter struct {
	io.Writer
	lost *atomic.Int64
}

// Write writes a line.
func (w *logWriter) Write(line []byte) (int, error) {
	n, err := w.Writer.Write(line)
	if err != nil {
		w.lost.Add(1)
	}
	return n, err
}

func (a *app) loadConfig(flags map[string]string) (*config, error) {
	file := a.configFile
	if file == "" {
		file = defaultConfigFile()
	}
	return loadConfig(file, os.Environ(), flags)
}
