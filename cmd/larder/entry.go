package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// entry is what a server told of an entry, as named columns in order.
type entry []column

type column struct {
	name    string
	value   any
	noTable bool // for json only
}

func (e *entry) add(name string, value any) { *e = append(*e, column{name: name, value: value}) }

// addBytes adds bytes as a string, or in base 64 under name_b64 where JSON has no string for them.
func (e *entry) addBytes(name string, value []byte) {
	c := column{name: name, value: string(value), noTable: true}
	if !utf8.Valid(value) {
		c.name, c.value = name+"_b64", value
	}
	*e = append(*e, c)
}

// addHeader adds what a header says, if it is there.
func (e *entry) addHeader(name, value string) {
	if value != "" {
		e.add(name, value)
	}
}

// entryOf starts an entry with its key, version, and place in a shard's log.
func entryOf(key string, a answer) entry {
	var e entry
	e.addBytes("key", []byte(key))
	e[0].noTable = false
	if v := version(a); v != "" {
		e.add("version", v)
	}
	for _, header := range []string{"Shard", "Epoch", "Index", "Served-By"} {
		e.add(strings.ToLower(strings.ReplaceAll(header, "-", "_")), a.header.Get("Larder-"+header))
	}
	return e
}

// version is the decimal number in an answer's ETag.
func version(a answer) string { return strings.Trim(a.header.Get("ETag"), `"`) }

// addTTL adds the time to live that a hit's Cache-Status tells, if there is one.
func (e *entry) addTTL(cacheStatus string) {
	if seconds := ttlLeft(cacheStatus); seconds != "" {
		e.add("ttl", seconds+"s")
	}
}

// addReplayed says that the change was made before, under the same idempotency key.
func (e *entry) addReplayed(a answer) {
	if again(a) != "" {
		e.add("replayed", true)
	}
}

// again tells a person the same.
func again(a answer) string {
	if a.header.Get("Idempotency-Replayed") == "?1" {
		return ", as before under this idempotency key"
	}
	return ""
}

// print writes e as format says: json, or table.
func (e entry) print(w io.Writer, format string) error {
	if format == "json" {
		return e.printJSON(w)
	}
	var names, values []string
	for _, c := range e {
		if c.noTable {
			continue
		}
		names = append(names, strings.ToUpper(strings.ReplaceAll(c.name, "_", "-")))
		values = append(values, cell(c.value))
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "%s\n%s\n", strings.Join(names, "\t"), strings.Join(values, "\t"))
	return table.Flush()
}

// cell is a value in a table: quoted where it would break the table or the terminal.
func cell(value any) string {
	if b, ok := value.([]byte); ok {
		text, _ := json.Marshal(b) // base 64 always encodes
		return strings.Trim(string(text), `"`)
	}
	text := fmt.Sprint(value)
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

func (e entry) printJSON(w io.Writer) error {
	var b strings.Builder
	for i, c := range e {
		value, err := json.Marshal(c.value)
		if err != nil {
			return err
		}
		separator := ","
		if i == 0 {
			separator = "{"
		}
		fmt.Fprintf(&b, "%s%q:%s", separator, c.name, value)
	}
	_, err := io.WriteString(w, b.String()+"}\n")
	return err
}
