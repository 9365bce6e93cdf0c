package main

import (
	"fmt"
	"slices"

	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/nemesis"
)

// swarmFaultsBuild is one in how many seeds of which a run that names no faults takes the build whose clocks can be set;
// the others run what users run.
const swarmFaultsBuild = 4

// resolve decides what auto stands for, says so where less is there than could be, and returns what there is.
func resolve(o *options) nemesis.Need {
	if o.net == "auto" || o.net == string(cluster.Tap) {
		if err := cluster.CanTap(); err != nil {
			fmt.Fprintf(o.say, "net: proxies on loopback, which can't lose, repeat or reorder packets, since there can be no switch: %v\n", err)
			o.net = string(cluster.Proxy)
		} else {
			o.net = string(cluster.Tap)
		}
	}
	if o.disk == "auto" || o.disk == string(cluster.Loop) {
		if err := cluster.CanLoop(); err != nil {
			fmt.Fprintf(o.say, "disk: folders, which can't lose power or run full, since there can be no loop device: %v\n", err)
			o.disk = string(cluster.Folder)
		} else {
			o.disk = string(cluster.Loop)
		}
	}
	var have nemesis.Need
	if o.net == string(cluster.Tap) {
		have |= nemesis.Packets | nemesis.Clients
	}
	if o.disk == string(cluster.Loop) {
		have |= nemesis.Loop
	}
	if o.takesBuild() {
		have |= nemesis.Build
	}
	if o.workload != "directory" {
		have |= nemesis.Settings
	}
	return have
}

// takesBuild reports whether the run may need a build with the tag faults.
func (o options) takesBuild() bool {
	return o.bug != "" || len(o.nemesis) == 0 && o.seed%swarmFaultsBuild == 0 || wantsBuild(o.nemesis)
}

// movesMembers reports whether faults change members by hand.
func movesMembers(names []string) bool {
	named, err := nemesis.Find(names)
	return err == nil && slices.ContainsFunc(named, func(f nemesis.Fault) bool { return f.Class == nemesis.Members })
}

// wantsBuild reports whether faults need a build with the tag faults.
func wantsBuild(names []string) bool {
	named, err := nemesis.Find(names)
	return err == nil && slices.ContainsFunc(named, func(f nemesis.Fault) bool { return f.Needs&nemesis.Build != 0 })
}
