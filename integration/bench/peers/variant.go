package main

import (
	"fmt"
	"strconv"
	"strings"
)

// variant is a Larder as its name has it: larder-8, larder-8-lease, larder-8-lease-bolt.
type variant struct {
	shards   int
	readMode string
	logStore string
}

// Flags of "larder server", and their defaults, which are given all the same: nothing else may decide.
const (
	readModeFlag, logStoreFlag = "--read-mode", "--log-store"
	modeProbe, modeLease       = "probe", "lease"
	storeBolt, storeShared     = "bolt", "shared"
)

const larderPrefix = "larder-"

// isLarder reports whether a name is that of a Larder.
func isLarder(system string) bool { return strings.HasPrefix(system, larderPrefix) }

// parseVariant reads the name of a Larder. args are flags that all of them have, and which win.
func parseVariant(system string, args []string) (variant, error) {
	words := strings.Split(strings.TrimPrefix(system, larderPrefix), "-")
	v := variant{readMode: modeProbe, logStore: storeShared}
	var err error
	if v.shards, err = strconv.Atoi(words[0]); err != nil || v.shards < 1 {
		return v, fmt.Errorf("system %q: want larder-SHARDS, with -%s or -%s behind", system, modeLease, storeBolt)
	}
	for _, word := range words[1:] {
		switch word {
		case modeLease:
			v.readMode = modeLease
		case storeBolt:
			v.logStore = storeBolt
		default:
			return v, fmt.Errorf("system %q: %q is not %s or %s", system, word, modeLease, storeBolt)
		}
	}
	v.readMode, v.logStore = lastValue(args, readModeFlag, v.readMode), lastValue(args, logStoreFlag, v.logStore)
	return v, nil
}

// lastValue returns what a flag is set to in args, otherwise where it isn't.
func lastValue(args []string, flag, otherwise string) string {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, flag+"="); ok {
			otherwise = value
		} else if arg == flag && i+1 < len(args) {
			otherwise = args[i+1]
		}
	}
	return otherwise
}

// flags are those of the nodes.
func (v variant) flags() []string {
	return []string{readModeFlag, v.readMode, logStoreFlag, v.logStore}
}
