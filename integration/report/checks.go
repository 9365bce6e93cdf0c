package report

import (
	"strings"

	"github.com/larder-cache/larder/integration/check"
)

// explanation says in words what a check is about.
type explanation struct {
	Title string
	Means string // what holds where it is valid
	Fails string // what it would look like if it did not
	Broke string // what went wrong, as part of a sentence
	Unit  string // of what it counts
	// Idle: that it has something to say even where it counted nothing.
	Idle bool
}

// explanations are those of the checks that package check runs, by name; a test holds them against it.
var explanations = map[string]explanation{
	"linearizable": {
		Title: "One order explains every answer",
		Means: "For each key there is one order of all its operations that explains every answer, and in which nothing comes before what had ended when it was asked for (linearizability). An exhaustive search looks for it, using only what clients saw.",
		Fails: "A read shows a value that had been replaced, and the replacement acknowledged, before the read was asked for.",
		Broke: "no order of events explains some of the answers", Unit: "operation",
	},
	"certificate": {
		Title: "The places in the log agree",
		Means: "Each answer names its place in the log of its shard. Replayed in that order the answers agree with each other, and the order agrees with the clients' clock.",
		Fails: "A read answered now names an earlier place than a write that was acknowledged before it was asked for.",
		Broke: "answers contradict the places in the log that they name", Unit: "operation",
	},
	"durable": {
		Title: "What was acknowledged is still there",
		Means: "After everything was healed, each key holds the last change that was acknowledged, or one of unknown outcome that came after.",
		Fails: "A client was told “stored”, and at the end the value is gone or an older one is back.",
		Broke: "something that was acknowledged is not there at the end", Unit: "read at the end",
	},
	"counters": {
		Title: "Increments count once",
		Means: "The final numbers are the sums of the acknowledged increments, and of none, some or all of those of unknown outcome.",
		Fails: "Ten acknowledged increments of 1 end as 9, or, with a retry that was run twice, as 11.",
		Broke: "numbers are not the sum of their increments", Unit: "increment",
	},
	"sets": {
		Title: "Appended elements stay, once",
		Means: "A list shows every acknowledged element once, and none that nobody appended.",
		Fails: "An acknowledged element is missing from the list, or stands in it twice.",
		Broke: "lists lack elements, or show what they must not", Unit: "append",
	},
	"bounded": {
		Title: "Old reads are not too old",
		Means: "A read that accepts an answer of at most some age shows what was current at some time within that age.",
		Fails: "A read of at most 2 s age shows a value that had been replaced 5 s before.",
		Broke: "reads were older than they may be", Unit: "read",
	},
	"any": {
		Title: "Reads of any age are of the past",
		Means: "A read that accepts an answer of any age shows something that was stored under its key at some time.",
		Fails: "A read shows a value that nobody stored, or one whose write was refused.",
		Broke: "reads of any age show what never was", Unit: "read",
	},
	"time to live": {
		Title: "Values end when their time is over",
		Means: "A value with a time to live is not shown after it, nor gone before it, by the clients' clock and with some slack.",
		Fails: "A value that was to live for 2 s is still read 10 s later, or is gone after half a second.",
		Broke: "values outlived their time, or ended before it", Unit: "read",
	},
	"misses": {
		Title: "Misses have a cause",
		Means: "Where a read found nothing and the answer says why (deleted, expired, evicted), a client had done something that can be the cause.",
		Fails: "A value is said to be deleted, and nobody ever asked to delete it.",
		Broke: "misses are explained by what nobody did", Unit: "miss with a reason",
	},
	"fills": {
		Title: "Loads come in time",
		Means: "A value that was loaded by right of a miss was stored only where nobody had changed the key since that miss.",
		Fails: "A client loads what it found in a database before another client deleted the key, and the load is stored after the delete.",
		Broke: "late loads were stored over what is newer", Unit: "load",
	},
	"replicas": {
		Title: "Replicas are equal",
		Means: "Replicas of a shard that have applied the same part of the log have the same state, by its checksum.",
		Fails: "At the same place of the log two nodes report different checksums: their copies have diverged.",
		Broke: "replicas of a shard differ", Unit: "sample of a replica",
	},
	"leaders": {
		Title: "One leader at a time",
		Means: "In each term, the span between two elections, a shard has one leader at most.",
		Fails: "Two nodes both say that they lead a shard in the same term.",
		Broke: "a shard had two leaders in one term", Unit: "sample of a replica",
	},
	"room": {
		Title: "Nothing vanished but what was evicted",
		Means: "No more values vanished from a shard than it counts as evicted for lack of room.",
		Fails: "Values are gone that nobody removed, from a shard that evicted nothing.",
		Broke: "values vanished that were not evicted", Unit: "sample of a replica",
	},
	"mode": {
		Title: "There was the room that was planned",
		Means: "A strict run has room for everything, so that a value that vanishes is a loss; a tight run has not, so that values are evicted.",
		Fails: "A strict run that evicted something cannot tell a loss from an eviction, a tight one that evicted nothing did not test evictions: neither proves anything.",
		Broke: "there was not the room that was planned", Unit: "eviction", Idle: true,
	},
	"convergence": {
		Title: "The replicas were compared at the end",
		Means: "After everything was healed, the states of at least two replicas of each shard were compared.",
		Fails: "Of a shard only one replica's state is known, so that nobody can say that it equals the others: not proved.",
		Broke: "replicas were not compared", Unit: "shard",
	},
	"liveness": {
		Title: "It came back after each fault",
		Means: "After each fault was undone the clients had their successes back in time, and the run could be carried through.",
		Fails: "A fault is undone, and long after that the clients still get no answers; or a node ends by itself.",
		Broke: "the cluster did not come back as it must, or the run could not be carried through", Unit: "fault",
	},
	"recovery": {
		Title: "Each recovery was seen",
		Means: "Each fault was undone, and it was seen that the clients' successes were back after it.",
		Fails: "A fault was never undone, or nobody saw the successes come back: not proved.",
		Broke: "recoveries were not seen", Unit: "fault",
	},
	"interface": {
		Title: "Only documented answers",
		Means: "Every answer is one that the interface documents for such a request, which decides what it means: done, certainly not done, or unknown.",
		Fails: "A node answers with status 500, or says that a refused write may have been applied.",
		Broke: "nodes gave answers that the interface does not allow", Unit: "operation",
	},
	"coverage": {
		Title: "Enough happened",
		Means: "Enough requests succeeded, enough faults took effect, enough reads found something, and the workload did what it is named for.",
		Fails: "Nothing was wrong since next to nothing happened: not proved.",
		Broke: "too little happened", Unit: "success",
	},
}

// explain returns what is said of a check. One without words speaks for itself.
func explain(name string) explanation {
	first, _, _ := strings.Cut(name, " ")
	for _, n := range []string{name, first} {
		if e, ok := explanations[n]; ok {
			return e
		}
	}
	return explanation{Title: name, Broke: name, Unit: "thing"}
}

// checkView is a check as a page shows it.
type checkView struct {
	check.Result
	explanation
	Anchor  string
	Count   string
	Counter string // violations, "" for none
	Unused  bool   // it had nothing to look at
}

// views are the checks, those that had something to look at first.
func views(v check.Report) (all []checkView) {
	violations := map[string]int{}
	for _, x := range v.Violations {
		violations[x.Check]++
	}
	var unused []checkView
	for _, c := range v.Checks {
		view := checkView{Result: c, explanation: explain(c.Name), Anchor: "check-" + strings.ReplaceAll(c.Name, " ", "-")}
		view.Count = some(c.Checked, view.Unit)
		if view.Detail = sentenceOf(c.Detail); view.Idle && c.Verdict == check.Valid {
			view.Detail = "" // the count says it
		}
		if n := violations[c.Name]; n > 0 {
			view.Counter = some(n, "violation")
		}
		if view.Unused = c.Checked == 0 && c.Verdict == check.Valid && !view.Idle; view.Unused {
			unused = append(unused, view)
			continue
		}
		all = append(all, view)
	}
	return append(all, unused...)
}
