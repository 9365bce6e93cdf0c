package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/larder-cache/larder/directory"
)

const settingsPath = "/v1/settings"

// toDefault is the value that stands for a setting's default on the command line.
const toDefault = "default"

func newSettingsCmd() *cobra.Command {
	var c client
	var match string
	cmd := &cobra.Command{
		Use:   "settings [NAME=VALUE ...]",
		Short: "Show the settings of the cluster, or change some",
		Long: `Show the settings of the cluster, or change some, all at once. They hold for all nodes and take effect
while these run. NAME=default goes back to a setting's default.

  larder settings
  larder settings cache-memory=40% default-ttl=24h

The settings of a node itself come from its flags: larder server --help.`,
		ValidArgsFunction: completeSettings,
		RunE: func(cmd *cobra.Command, args []string) error {
			var version uint64
			if cmd.Flags().Changed("if-match") {
				var err error
				if version, err = strconv.ParseUint(strings.Trim(match, `"`), 10, 64); err != nil || version == 0 || len(args) == 0 {
					return usageError{fmt.Errorf("--if-match %q: the version of the settings that a change is made for, such as 17", match)}
				}
			}
			values, err := parseChanges(args)
			if err != nil {
				return err
			}
			var shown map[string]json.RawMessage
			var a answer
			if len(values) == 0 {
				a, err = c.fetch(cmd.Context(), settingsPath, "", &shown)
			} else {
				a, err = c.changeSettings(cmd.Context(), values, version, &shown)
			}
			if err != nil {
				return err
			}
			return printSettings(cmd.OutOrStdout(), shown, c.output, strings.Trim(a.header.Get("ETag"), `"`))
		},
	}
	c.adminFlags(cmd.Flags())
	cmd.Flags().StringVar(&match, "if-match", "", "change only if the settings have this version, such as 17")
	return cmd
}

// parseChanges reads NAME=VALUE arguments. What the values mean is the cluster's to say: it may know
// settings that this program does not.
func parseChanges(args []string) (map[string]*string, error) {
	values := make(map[string]*string)
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		switch _, twice := values[name]; {
		case !ok || name == "" || value == "":
			return nil, usageError{fmt.Errorf("%q is not NAME=VALUE", arg)}
		case twice:
			return nil, usageError{fmt.Errorf("%s is given twice", name)}
		case value == toDefault:
			values[name] = nil
		default:
			values[name] = &value
		}
	}
	return values, nil
}

// changeSettings has the cluster change settings; version 0 is any. It never sends the change twice.
func (c *client) changeSettings(ctx context.Context, values map[string]*string, version uint64, shown any) (answer, error) {
	body, err := json.Marshal(values)
	if err != nil {
		return answer{}, err
	}
	header := http.Header{"Content-Type": {"application/merge-patch+json"}}
	if version != 0 {
		header.Set("If-Match", `"`+strconv.FormatUint(version, 10)+`"`)
	}
	a, err := c.change(ctx, request{method: http.MethodPatch, path: settingsPath, header: header, body: body, learn: `"larder settings" shows whether it did`}, shown)
	var exit exitError
	if errors.As(err, &exit) && exit.code == exitPrecondition {
		exit.error = fmt.Errorf("the settings have changed: their version is %s now; look at them again with \"larder settings\" before you decide", strings.Trim(a.header.Get("ETag"), `"`))
		err = exit
	}
	return a, err
}

// shownSetting is a setting as it is printed.
type shownSetting struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	Default string `json:"default"`
	Meaning string `json:"meaning"`
}

// printSettings prints what a server tells of the settings, with what this program knows of them.
func printSettings(w io.Writer, shown map[string]json.RawMessage, output, version string) error {
	list := []shownSetting{}
	add := func(name string, o directory.Option) {
		value := string(shown[name])
		if text, err := strconv.Unquote(value); err == nil {
			value = text
		}
		if o.Fixed {
			o.Meaning += " (fixed)"
		}
		list = append(list, shownSetting{name, value, o.Default, o.Meaning})
		delete(shown, name)
	}
	for _, o := range directory.Options() {
		if shown[o.Name] != nil {
			add(o.Name, o)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shown)) { // of a later build
		add(name, directory.Option{})
	}
	if output == "json" {
		return printValue(w, struct {
			Version  string         `json:"version"`
			Settings []shownSetting `json:"settings"`
		}{version, list})
	}
	t := newTable(w, "SETTING", "VALUE", "DEFAULT", "MEANING")
	for _, s := range list {
		t.row(s.Name, s.Value, s.Default, s.Meaning)
	}
	if err := t.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nVersion %s.\n", oneLine(version))
	return err
}

// completeSettings offers the names of settings that can change, for a shell.
func completeSettings(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, o := range directory.Options() {
		given := false
		for _, arg := range args {
			given = given || strings.HasPrefix(arg, o.Name+"=")
		}
		if !o.Fixed && !given {
			names = append(names, cobra.CompletionWithDesc(o.Name+"=", o.Meaning))
		}
	}
	return names, cobra.ShellCompDirectiveNoSpace | cobra.ShellCompDirectiveNoFileComp
}

// settingFlag is a flag that seeds a setting of the cluster.
type settingFlag struct {
	settings *directory.Settings
	option   directory.Option
}

func (f settingFlag) String() string {
	if f.settings == nil { // pflag asks a zero value
		return ""
	}
	return f.option.Text(*f.settings)
}

func (f settingFlag) Type() string { return "string" }

// Set reads a value, as a change of the setting would.
func (f settingFlag) Set(text string) error {
	next, err := f.settings.With(map[string]*string{f.option.Name: &text})
	var refused *directory.SettingError
	if errors.As(err, &refused) {
		return errors.New(refused.Reason) // pflag names the flag
	}
	*f.settings = next
	return err
}
