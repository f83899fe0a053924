package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/jedib0t/go-pretty/v6/table"
	"go.yaml.in/yaml/v3"
)

// tabled is a value that knows its row in a table; named one that knows the word it is called by.
type tabled interface {
	columns() []string
	row() []any
}

type named interface{ name() string }

// print writes a value, or a list of them, in the form that -o asks for.
func (a *app) print(value any) error {
	switch a.output {
	case "json":
		text, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "%s\n", text)
		return err
	case "yaml":
		return a.printYAML(value)
	}
	rows := rowsOf(value)
	if a.output == "name" {
		for _, row := range rows {
			if n, ok := row.(named); ok {
				fmt.Fprintln(a.stdout, n.name())
			}
		}
		return nil
	}
	a.printTable(value, rows)
	return nil
}

// printYAML goes by way of JSON, so that both have the same keys.
func (a *app) printYAML(value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var plain any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&plain); err != nil {
		return err
	}
	e := yaml.NewEncoder(a.stdout)
	e.SetIndent(2)
	return e.Encode(plain)
}

func rowsOf(value any) []any {
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Slice {
		return []any{value}
	}
	rows := make([]any, v.Len())
	for i := range rows {
		rows[i] = v.Index(i).Interface()
	}
	return rows
}

func (a *app) printTable(value any, rows []any) {
	w := table.NewWriter()
	w.SetOutputMirror(a.stdout)
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "   "
	w.SetStyle(style)
	for i, row := range rows {
		t, ok := row.(tabled)
		if !ok {
			fmt.Fprintln(a.stdout, row)
			continue
		}
		if i == 0 {
			header := table.Row{}
			for _, c := range t.columns() {
				header = append(header, c)
			}
			w.AppendHeader(header)
		}
		w.AppendRow(t.row())
	}
	if w.Length() > 0 {
		w.Render()
	} else if reflect.ValueOf(value).Kind() == reflect.Slice && len(rows) == 0 && !a.quiet {
		fmt.Fprintln(a.stderr, "none")
	}
}
