# Each target is a line or a few that you could type yourself. Go is all that they need, but for
# test-extra (curl).

STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 30s

.PHONY: run build test soak check check-peers lint fuzz bench bench-go bench-idle bench-failover bench-log bench-fsm bench-hitratio catchup clean demo test-extra integration jepsen jepsen-nightly jepsen-selftest jepsen-smoke

# A cluster of three nodes in one process. ^C ends it.
run:
	go build -o bin/ ./cmd/larder && exec bin/larder dev

build:
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/larder

# Everything, faults on real processes included: a few minutes on two cores.
test:
	go test ./...
	go test -C integration -timeout 20m ./...

# Whole clusters in virtual time under random faults, each scenario judged, one after the other until TIME is over:
# thousands in a minute. On a failure it names the seed, and how to repeat it. make soak TIME=1h SEED=1000
soak:
	LARDER_TIME=$(or $(TIME),10m) LARDER_SEED=$(or $(SEED),$(shell date +%s)) go test -C shard -run '^TestNemesis$$' -timeout 0

# What every commit passes.
check: lint
	go test -race -short ./...
	go test -C integration -race -short ./...

lint:
	gofmt -l . | (! grep .)
	go vet ./...
	go vet -tags faults ./...
	go vet -C integration -tags extra ./...
	$(STATICCHECK) ./...
	$(STATICCHECK) -tags faults ./...
	cd integration && $(STATICCHECK) -tags extra ./...

# The comparison with other stores, which is a module of its own as these take minutes to compile: what passes before it changes.
check-peers:
	go vet -C integration/bench/peers ./...
	cd integration/bench/peers && $(STATICCHECK) ./...
	go test -C integration/bench/peers ./...

# Each fuzz test for FUZZTIME.
fuzz:
	go test ./fsm -run '^$$' -fuzz '^FuzzDecodeBatch$$' -fuzztime $(FUZZTIME)
	go test ./fsm -run '^$$' -fuzz '^FuzzRestore$$' -fuzztime $(FUZZTIME)
	go test ./shard -run '^$$' -fuzz '^FuzzFrames$$' -fuzztime $(FUZZTIME)
	go test ./directory -run '^$$' -fuzz '^FuzzDecodeReport$$' -fuzztime $(FUZZTIME)
	go test ./httpapi -run '^$$' -fuzz '^FuzzBatchBody$$' -fuzztime $(FUZZTIME)
	go test ./directory -run '^$$' -fuzz '^FuzzDecodeCommand$$' -fuzztime $(FUZZTIME)
	go test ./httpapi -run '^$$' -fuzz '^FuzzKey$$' -fuzztime $(FUZZTIME)
	go test ./httpapi -run '^$$' -fuzz '^FuzzPlainHeader$$' -fuzztime $(FUZZTIME)

# Larder beside etcd, Redis (where redis-server is in PATH) and a bare handler: rates, latencies, processor time, allocations,
# memory. Up to 20 minutes; ARGS=-quick takes 4. ARGS='-systems larder-8-lease-bolt,etcd-E1 -conns 64 -json out/bench.json -plots out'
bench:
	go build -C integration/bench/peers -o ../../../bin/peers .
	cd integration/bench/peers && exec ../../../bin/peers $(ARGS)

# What a thousand idle shards cost three nodes, and how long a node's death keeps them without leaders: a minute or two.
bench-idle:
	go run -C integration ./bench/idle $(ARGS)

# How long writes stand still when the node that leads most shards is killed, frozen or cut off, ten times each: about ten minutes.
# ARGS='-rounds 3 -faults kill,stop -json out/failover.json'
bench-failover:
	go run -C integration ./bench/failover $(ARGS)

# The benchmarks of Go's packages.
bench-go:
	go test -run '^$$' -bench . -benchmem ./...

# Where replicas may keep their logs, side by side: a bbolt file each, the log that a node's replicas share, and raft-wal. Two
# minutes and 4 GiB of disk. ARGS='-rounds 9'
bench-log:
	go run -C integration ./bench/log $(ARGS)

# The state machine beside golang-lru, a map with a list, and Redis where redis-server is in PATH: speed, memory,
# garbage collection, snapshots under load, churn. Several minutes and 8 GiB. ARGS='-only speed -entries 1000000'
bench-fsm:
	go run -C integration ./bench/fsm $(ARGS)

# Hit ratios of traces beside an exact LRU's, with and without a failover, and what touches cost. All traces of a
# folder (LARDER_TRACES), or make bench-hitratio TRACE=/path/of/one. Several minutes.
bench-hitratio:
	LARDER_TRACES=$(abspath $(or $(LARDER_TRACES),../shared/traces)) go run -C integration ./bench/hitratio $(if $(TRACE),-trace $(abspath $(TRACE))) $(ARGS)

clean:
	rm -rf bin

# A real trace over REST against three processes with room for a tenth of its keys, one of which is killed.
# make demo ARGS='--trace FILE'
demo: build
	go run ./scripts/demo --larder bin/larder $(ARGS)

# What needs more than Go: REST as curl speaks it. Fails, never skips, where curl is missing.
test-extra:
	go test -C integration -tags extra -count 1 -run '^TestCurl' .

# The tests on real processes at length: each fault ten times, with the table of failover times.
integration:
	LARDER_ROUNDS=10 go test -C integration -count 1 -v -timeout 40m .

# A new member of a shard of MIB (1024) is caught up while writes go on: how long that takes, and latencies before and meanwhile.
# Up to a quarter of an hour, and 4 times as much memory and disk.
catchup:
	LARDER_TEST_CATCHUP=$(or $(MIB),1024) go test -C integration -count 1 -v -timeout 60m -run '^TestCatchUp$$' .

# Real processes under faults, with clients whose answers are checked: WORKLOAD NEMESIS TIME SEED MODE NET NODES SHARDS BUG OUT,
# for example make jepsen WORKLOAD=counter NEMESIS=pause,kill-all TIME=2m SEED=42. It ends with a verdict and a folder.
# "bin/jepsen list" tells what there is, "bin/jepsen check DIR" checks a folder again, "bin/jepsen index out" makes a page over
# all runs. Root is wanted, not needed.
OUT ?= out
jepsen:
	go build -C integration -o ../bin/jepsen ./cmd/jepsen
	cd integration && exec ../bin/jepsen run --out $(abspath $(OUT)) $(if $(WORKLOAD),--workload $(WORKLOAD)) \
		$(if $(NEMESIS),--nemesis $(NEMESIS)) $(if $(TIME),--time $(TIME)) $(if $(SEED),--seed $(SEED)) \
		$(if $(MODE),--mode $(MODE)) $(if $(NET),--net $(NET)) $(if $(NODES),--nodes $(NODES)) $(if $(SHARDS),--shards $(SHARDS)) $(if $(BUG),--bug $(BUG)) $(ARGS)

# Two short runs, with room for all and without: what .ci/run does.
jepsen-smoke:
	$(MAKE) jepsen WORKLOAD=register TIME=12s SEED=7 NODES=3 NEMESIS=pause-leader,kill-one,partition-leader,oneway-in
	$(MAKE) jepsen WORKLOAD=evict MODE=tight TIME=12s SEED=8 NODES=3 NEMESIS=kill-one,transfer-leader,force-snapshot

# Run after run, over all workloads and faults, with and without room for all, for TIME (an hour). EACH=2m SEED=1
jepsen-nightly:
	go build -C integration -o ../bin/jepsen ./cmd/jepsen
	cd integration && exec ../bin/jepsen nightly --out $(abspath $(OUT)) $(if $(TIME),--time $(TIME)) $(if $(EACH),--each $(EACH)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# Each seeded bug must be found: by the schedules in virtual time, by a test that arranges what it takes, or by a run of
# real processes. BUG=name,name for some of them, TIME for the time of a run.
jepsen-selftest:
	LARDER_BUGS=$(BUG) go test -tags faults ./shard ./directory -count 1 -run '^TestSeededBugs' -v -timeout 30m
	go build -C integration -o ../bin/jepsen ./cmd/jepsen
	cd integration && exec ../bin/jepsen selftest --out $(abspath $(OUT)) $(if $(BUG),--bug $(BUG)) $(if $(TIME),--time $(TIME))
