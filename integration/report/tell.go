package report

import (
	"fmt"

	"github.com/larder-cache/larder/integration/history"
)

// asked says in words what an operation asked for.
func asked(o *history.Operation) string {
	s := ""
	switch o.Kind {
	case history.Get:
		s = "read " + o.Key
	case history.GetBounded:
		s = fmt.Sprintf("read %s, at most %s old", o.Key, span(o.MaxStaleness))
	case history.GetAny:
		s = fmt.Sprintf("read %s, of any age", o.Key)
	case history.Put:
		s = fmt.Sprintf("store %s under %s", label(o.Value), o.Key)
	case history.Swap:
		s = fmt.Sprintf("store %s under %s and tell what was there", label(o.Value), o.Key)
	case history.Create:
		s = fmt.Sprintf("store %s under %s if nothing is there", label(o.Value), o.Key)
	case history.Replace:
		s = fmt.Sprintf("store %s under %s if version %d is there", label(o.Value), o.Key, o.IfMatch)
	case history.Delete:
		s = "remove " + o.Key
	case history.DeleteIf:
		s = fmt.Sprintf("remove %s if version %d is there", o.Key, o.IfMatch)
	case history.Incr:
		s = fmt.Sprintf("add %d to %s", o.Delta, o.Key)
	case history.Append:
		s = fmt.Sprintf("append %s to %s", label(o.Value), o.Key)
	case history.Expire:
		s = fmt.Sprintf("let what is under %s end after %s", o.Key, span(o.TTL))
	case history.Touch:
		s = fmt.Sprintf("make %s the most recently used", o.Key)
	default:
		s = fmt.Sprintf("%s %s", o.Kind, o.Key)
	}
	if o.TTL != 0 && o.Kind != history.Expire {
		s += " for " + span(o.TTL)
	}
	if o.Attempts > 1 {
		s += fmt.Sprintf(" (sent %d times)", o.Attempts)
	}
	return s
}

// answered says in words what came back.
func answered(o *history.Operation) string {
	switch {
	case o.Outcome == history.Unknown && o.Status/100 == 2: // a check cut the history before its answer
		return "no answer yet when the last of these came"
	case o.Outcome == history.Unknown && o.Status == 0:
		return "no answer: it may have happened, or not"
	case o.Outcome == history.Unknown:
		return fmt.Sprintf("outcome unknown (status %d): it may have happened, or not", o.Status)
	case o.Outcome == history.Refused:
		return fmt.Sprintf("refused (status %d): it certainly did not happen", o.Status)
	case o.Conflict && o.Version != 0:
		return fmt.Sprintf("not done, since version %d is there", o.Version)
	case o.Conflict:
		return "not done, since the condition does not hold"
	case o.Kind.Read() && o.Found:
		return "the value " + label(o.Read)
	case o.Kind.Read() && o.Miss != "":
		return "nothing is there (" + o.Miss + ")"
	case o.Kind.Read():
		return "nothing is there"
	case o.Kind == history.Incr:
		return fmt.Sprintf("done, it is %d now", o.Number)
	case o.Kind == history.Append && o.Found:
		return "done, it is " + label(o.Read) + " now"
	case o.Kind == history.Swap && o.Found:
		return "stored, " + label(o.Read) + " was there"
	case o.Kind.Stores():
		return "stored"
	case o.Kind == history.Delete && !o.Existed:
		return "done, nothing was there"
	case o.Kind == history.Delete || o.Kind == history.DeleteIf:
		return "removed"
	case !o.Existed:
		return "nothing is there"
	}
	return "done"
}

// paths say how a node came to the answer of a read, by what Larder-Read says.
var paths = map[string]string{
	"probe":    "as leader, confirmed by a round among the replicas",
	"lease":    "as leader, by a promise of the replicas",
	"log":      "as leader, after an entry of its own in the log",
	"follower": "as follower, which asked the leader how far it must be",
	"local":    "from its own copy, asking nobody",
}

// servedBy says who answered, and how it says to have come to a read.
func servedBy(o *history.Operation) string {
	how := paths[o.Path]
	if how == "" {
		how = o.Path
	}
	if o.ServedBy == "" || how == "" {
		return o.ServedBy
	}
	return o.ServedBy + " (" + how + ")"
}

// said is an operation as a sentence.
func said(o *history.Operation) string {
	local := ""
	if o.Local {
		local = ", which was not to pass it on,"
	}
	s := fmt.Sprintf("Client %d asked node %s%s to %s.", o.Process, o.Node, local, asked(o))
	by := ""
	if served := servedBy(o); served != "" {
		by = fmt.Sprintf(" by %s", served)
	}
	if o.Outcome == history.Unknown && o.Status/100 == 2 {
		return s + " There was " + answered(o) + "."
	}
	if o.Outcome == history.Unknown {
		return s + fmt.Sprintf(" It waited for %s: %s.", span(o.Return-o.Invoke), answered(o))
	}
	return s + fmt.Sprintf(" After %s, at %s, it was told%s: %s.", span(o.Return-o.Invoke), instant(o.Return), by, answered(o))
}
