package httpapi

import "net/http"

// locatePrefix precedes the key in the path that tells where it lives.
const locatePrefix = "/v1/locate/"

// tablePath is the table for clients.
const tablePath = "/v1/directory"

// nodesPath is the list of nodes; each is under it by its id.
const nodesPath = "/v1/nodes"

// routes are all resources. What the interface promises and this version lacks is listed too, so
// that a client learns from a 501 that it is early, and from a 404 that it is wrong.
func (s *server) routes() []route {
	unbuilt := func(what string) handler {
		return func(http.ResponseWriter, *http.Request) error {
			return kindNotBuilt.problem("%s is part of the interface, but not built yet. Nothing was done.", what)
		}
	}
	get := func(h handler) map[string]handler { return map[string]handler{http.MethodGet: h} }
	return []route{
		s.dataRoute(),
		{path: batchPath, methods: map[string]handler{http.MethodPost: s.batch}},
		{path: keysPath, methods: map[string]handler{
			http.MethodGet:    s.listKeys,
			http.MethodDelete: s.removeKeys,
		}},
		{path: "/v1/events", methods: get(unbuilt("The feed of changes"))},

		{path: locatePrefix, under: true, methods: get(s.locate)},
		{path: tablePath, methods: get(s.showTable)},
		{path: "/v1/directory/rebuild", methods: map[string]handler{http.MethodPost: s.rebuildDirectory}},
		{path: "/v1/shards", methods: get(s.showShards)},
		{path: "/v1/shards/{id}", methods: get(s.showShard)},
		{path: "/v1/shards/{id}/events", methods: get(unbuilt("A shard's feed of changes"))},
		{path: "/v1/shards/{id}/checksum", methods: get(s.showChecksum)},
		{path: "/v1/shards/{id}/members", methods: get(s.showMembers)},
		{path: "/v1/shards/{id}/members/{node}", methods: map[string]handler{
			http.MethodPut:    s.addMember,
			http.MethodDelete: s.removeMember,
		}},
		{path: "/v1/shards/{id}/leader", methods: map[string]handler{http.MethodPut: s.putLeader}},
		{path: "/v1/shards/{id}/recover", methods: map[string]handler{http.MethodPost: s.recoverShard}},
		{path: "/v1/shards/{id}/split", methods: map[string]handler{http.MethodPost: unbuilt("Splitting a shard")}},
		{path: "/v1/shards/{id}/merge", methods: map[string]handler{http.MethodPost: unbuilt("Merging shards")}},
		{path: "/v1/settings", methods: map[string]handler{
			http.MethodGet:   s.showSettings,
			http.MethodPatch: s.patchSettings,
		}},
		{path: nodesPath, methods: get(s.showNodes)},
		{path: nodesPath + "/{id}", methods: map[string]handler{
			http.MethodGet:    s.showNode,
			http.MethodDelete: s.removeNode,
		}},
		{path: nodesPath + "/{id}/drain", methods: map[string]handler{http.MethodPost: s.drainNode}},
		{path: nodesPath + "/{id}/undrain", methods: map[string]handler{http.MethodPost: s.undrainNode}},
		{path: operationsPath, methods: get(s.showOperations)},
		{path: operationsPath + "/{n}", methods: map[string]handler{
			http.MethodGet:    s.showOperation,
			http.MethodDelete: s.cancelOperation,
		}},
		{path: "/v1/backup", methods: get(unbuilt("A backup"))},
		{path: "/v1/restore", methods: map[string]handler{http.MethodPost: unbuilt("Restoring a backup")}},

		{path: "/livez", methods: get(s.live)},
		{path: "/readyz", methods: get(s.ready)},
		{path: "/metrics", methods: get(s.showMetrics)},
		{path: "/openapi.json", methods: get(s.showOpenAPI)},
		{path: "/ui/", under: true, methods: get(unbuilt("The dashboard"))},
	}
}

// dataRoute are the keys.
func (s *server) dataRoute() route {
	return route{path: kvPrefix, under: true, methods: map[string]handler{
		http.MethodGet:    s.admit(s.get),
		http.MethodPut:    s.admit(s.put),
		http.MethodDelete: s.admit(s.remove),
		http.MethodPatch:  s.admit(s.patch),
		http.MethodPost:   s.admit(s.operate),
	}}
}
