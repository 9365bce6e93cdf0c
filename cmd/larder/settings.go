package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	configFlag = "config"
	printFlag  = "print-config"
)

const environmentPrefix = "LARDER_"

// foreignVariables are names that others set: Kubernetes gives every container the addresses of
// the services near it, and a service may well be called larder, or larder-something.
// The first few are the tests' own; faults exist only in builds with that tag.
var foreignVariables = regexp.MustCompile(`^(TEST_.*|FAULTS|ROUNDS|KEEP|(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))$`)

func settingsFlags(f *pflag.FlagSet) {
	f.String(configFlag, "", "file with settings that neither flag nor variable gives: lines NAME = VALUE")
	f.Bool(printFlag, false, "print this command's settings and where each comes from, and do nothing else")
}

// settings are the flags of one command, with where their values come from.
type settings struct {
	cmd     *cobra.Command
	known   map[string]bool   // flags of any command
	origins map[string]string // of those flags of cmd that are not at their default
}

// settle sets those flags of cmd that were not given: from variables, then from the file that --config
// names. With --print-config it prints the result, and leaves cmd nothing to do.
func settle(cmd *cobra.Command, environ []string) error {
	if cmd.Name() == cobra.ShellCompRequestCmd || cmd.Name() == cobra.ShellCompNoDescRequestCmd {
		return nil // a shell asks, on each press of a key
	}
	s := settings{cmd: cmd, known: map[string]bool{}, origins: map[string]string{}}
	collectFlags(cmd.Root(), s.known)
	cmd.Flags().Visit(func(f *pflag.Flag) { s.origins[f.Name] = "flag" })
	if err := s.applyVariables(environ); err != nil {
		return err
	}
	if cmd.Flags().Changed(configFlag) {
		if err := s.applyFile(cmd.Flag(configFlag).Value.String()); err != nil {
			return err
		}
	}
	if printing(cmd) {
		cmd.RunE = func(*cobra.Command, []string) error { return s.print(cmd.OutOrStdout()) }
	}
	return nil
}

// applyVariables sets flags from LARDER_ variables. A variable that is no flag of any command is an
// error: it was meant to have an effect.
func (s settings) applyVariables(environ []string) error {
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		rest, ok := strings.CutPrefix(name, environmentPrefix)
		if !ok || foreignVariables.MatchString(rest) {
			continue
		}
		flag := strings.ToLower(strings.ReplaceAll(rest, "_", "-"))
		if !s.known[flag] || variableOf(flag) != name {
			return usageError{fmt.Errorf("the variable %s is set, but is no setting of larder", name)}
		}
		if err := s.set(flag, value, "variable "+name); err != nil {
			return err
		}
	}
	for _, variable := range environ { // ours go before the runtime's
		if value, ok := strings.CutPrefix(variable, goMemoryLimit+"="); ok && value != "" {
			return s.set(memoryLimitFlag, value, "variable "+goMemoryLimit)
		}
	}
	return nil
}

// applyFile sets flags from a file of lines "name = value"; those that begin with # are comments. A
// name that is no flag of any command is an error, as is one that comes twice.
func (s settings) applyFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return usageError{fmt.Errorf("--%s: %w", configFlag, err)}
	}
	seen := map[string]int{}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		place := fmt.Sprintf("%s:%d", path, number)
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !ok:
			return usageError{fmt.Errorf("%s: %q is not NAME = VALUE", place, line)}
		case name == configFlag:
			return usageError{fmt.Errorf("%s: a file can't name another", place)}
		case !s.known[name]:
			return usageError{fmt.Errorf("%s: %q is no setting of larder", place, name)}
		case seen[name] != 0:
			return usageError{fmt.Errorf("%s: %s is in line %d already", place, name, seen[name])}
		}
		seen[name] = number
		if err := s.set(name, value, "file "+place); err != nil {
			return err
		}
	}
	return nil
}

// set gives a flag the value that origin has for it, unless the command has no such flag, or has a
// value from a source that goes before.
func (s settings) set(name, value, origin string) error {
	f := s.cmd.Flags().Lookup(name)
	if f == nil || f.Changed {
		return nil
	}
	if err := s.cmd.Flags().Set(name, value); err != nil {
		return usageError{fmt.Errorf("%s: %w", origin, err)}
	}
	s.origins[name] = origin
	return nil
}

// print lists all settings of the command, in the form that -o asks for.
func (s settings) print(w io.Writer) error {
	type setting struct {
		Name  string `json:"name"`
		Value string `json:"value"`
		From  string `json:"from"`
	}
	var list []setting
	s.cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || f.Name == printFlag || f.Hidden {
			return
		}
		from := s.origins[f.Name]
		if from == "" {
			from = "default"
		}
		list = append(list, setting{f.Name, f.Value.String(), from})
	})
	if f := s.cmd.Flag("output"); f != nil && f.Value.String() == "json" {
		body, err := json.Marshal(list)
		if err != nil {
			return err
		}
		return printJSON(w, body)
	}
	t := newTable(w, "SETTING", "VALUE", "FROM")
	for _, l := range list {
		t.row(l.Name, l.Value, l.From)
	}
	return t.flush()
}

// printing reports whether --print-config is given to cmd, whose flags are parsed.
func printing(cmd *cobra.Command) bool {
	on, err := cmd.Flags().GetBool(printFlag)
	return err == nil && on
}

// excusePrinting lets commands that only print their settings go without arguments.
func excusePrinting(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil && !printing(cmd) {
				return err
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		excusePrinting(sub)
	}
}

// variableOf is the variable that gives a flag.
func variableOf(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// collectFlags adds the names of all settings of cmd and the commands below it.
func collectFlags(cmd *cobra.Command, names map[string]bool) {
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && f.Name != printFlag {
			names[f.Name] = true
		}
	})
	for _, sub := range cmd.Commands() {
		collectFlags(sub, names)
	}
}
