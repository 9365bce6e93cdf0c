package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// ErrInterface is wrapped where an answer is none that the interface allows.
var ErrInterface = errors.New("interface broken")

// Answer is what came back for an operator's request.
type Answer struct {
	Status   int
	ETag     string // without quotes
	Location string
	// Of the problem body, "" when there was none.
	Problem, Detail, Applied string
	Body                     []byte
}

func (a Answer) String() string {
	return fmt.Sprintf("%d %s", a.Status, strings.TrimSpace(string(a.Body)))
}

// answers are all that an operator's request may be answered, and what the problem body must say in
// "applied", "" where there is no such body.
var answers = map[int]string{
	200: "", 202: "", 204: "",
	404: "no", 409: "no", 412: "no", 428: "no", 429: "no", 503: "no", 507: "no",
	504: "unknown",
}

// Ask sends an operator's request; header holds names and values by turns. An error that is not
// ErrInterface means that there was no answer: a change may have begun.
func (n *Node) Ask(ctx context.Context, method, path, body string, header ...string) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.URL+path, strings.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := n.cluster.operating.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{}, err
	}
	a, err := readAnswer(resp.StatusCode, resp.Header, data)
	if err != nil {
		return a, fmt.Errorf("%s %s at %s: %w: %w: %s", method, path, n.ID, ErrInterface, err, a)
	}
	return a, nil
}

// readAnswer takes an answer apart; its error is a defect of the server.
func readAnswer(status int, h http.Header, body []byte) (Answer, error) {
	a := Answer{Status: status, Location: h.Get("Location"), Body: body}
	applied, known := answers[status]
	if !known {
		return a, fmt.Errorf("status %d is not in the table of answers", status)
	}
	if status >= 400 {
		if got := h.Get("Content-Type"); got != "application/problem+json" {
			return a, fmt.Errorf("content type %q", got)
		}
		var p struct {
			Type, Detail, Applied string
			Status                int
		}
		if err := json.Unmarshal(body, &p); err != nil {
			return a, err
		}
		if p.Status != status {
			return a, fmt.Errorf("the body says status %d", p.Status)
		}
		a.Problem, a.Detail, a.Applied = p.Type, p.Detail, p.Applied
	}
	if a.Applied != applied {
		return a, fmt.Errorf("applied %q, want %q", a.Applied, applied)
	}
	if tag := h.Get("ETag"); tag != "" {
		var err error
		if a.ETag, err = strconv.Unquote(tag); err != nil {
			return a, fmt.Errorf("ETag %s is not quoted", tag)
		}
	}
	return a, nil
}

// Members is a shard's configuration, as its leader has it.
type Members struct {
	Shard   uint64
	Conf    string
	Leader  string
	Members []Member
}

// Member is one of Members.
type Member struct {
	Node, Replica, Role, State string
	Match, Last                uint64
}

// Has reports whether node has a replica of the shard, a learner included.
func (m Members) Has(node string) bool {
	for _, member := range m.Members {
		if member.Node == node {
			return true
		}
	}
	return false
}

// Voters returns the nodes that vote, in the order of the configuration, and whether that is all
// members.
func (m Members) Voters() (nodes []string, all bool) {
	for _, member := range m.Members {
		if member.Role == "voter" {
			nodes = append(nodes, member.Node)
		}
	}
	return nodes, len(nodes) == len(m.Members)
}

// Members asks n for the members of a shard, 0 being the directory. It fails while nobody leads.
func (n *Node) Members(ctx context.Context, shard uint64) (Members, error) {
	a, err := n.Ask(ctx, http.MethodGet, fmt.Sprintf("/v1/shards/%d/members", shard), "")
	if err != nil {
		return Members{}, err
	}
	if a.Status != http.StatusOK {
		return Members{}, fmt.Errorf("members of shard %d at %s: %s", shard, n.ID, a)
	}
	var m Members
	if err := json.Unmarshal(a.Body, &m); err != nil {
		return Members{}, fmt.Errorf("%w: %w: %s", ErrInterface, err, a)
	}
	if m.Conf == "" || m.Conf != a.ETag || m.Shard != shard || m.Leader == "" || len(m.Members) == 0 {
		return Members{}, fmt.Errorf("%w: members with ETag %q: %s", ErrInterface, a.ETag, a)
	}
	return m, nil
}

// Operation is a change of members.
type Operation struct {
	ID            uint64
	Kind          string
	Shard         uint64
	Node, Replica string
	State, Phase  string
	Detail, Error string
	Reason        string // of those that the cluster began by itself
	EntriesDone   uint64 `json:"entries_done"`
	EntriesTotal  uint64 `json:"entries_total"`
	ItemsDone     uint64 `json:"items_done"`
	ItemsTotal    uint64 `json:"items_total"`
	BytesDone     uint64 `json:"bytes_done"`
	BytesTotal    uint64 `json:"bytes_total"`
	Snapshot      bool   // the bytes are those of one that comes in
	BytesRate     uint64 `json:"bytes_per_second"`
}

// Over reports whether the operation has ended.
func (o Operation) Over() bool { return o.State != "running" }

func (o Operation) String() string {
	return fmt.Sprintf("operation %d, %s %s of shard %d: %s %s %s%s", o.ID, o.Kind, o.Node, o.Shard, o.State, o.Phase, o.Detail, o.Error)
}

// ChangeMember asks for one member more (add) or less of a shard, on condition that its conf is the one
// given. The operation is that of an answer 202.
func (n *Node) ChangeMember(ctx context.Context, shard uint64, node string, add bool, conf string) (Answer, Operation, error) {
	method := http.MethodDelete
	if add {
		method = http.MethodPut
	}
	a, err := n.Ask(ctx, method, fmt.Sprintf("/v1/shards/%d/members/%s", shard, node), "", "If-Match", strconv.Quote(conf))
	if err != nil || a.Status != http.StatusAccepted {
		return a, Operation{}, err
	}
	var o Operation
	if err := json.Unmarshal(a.Body, &o); err != nil {
		return a, o, fmt.Errorf("%w: %w: %s", ErrInterface, err, a)
	}
	kind := "remove-member"
	if add {
		kind = "add-member"
	}
	if o.Kind != kind || o.Shard != shard || o.Node != node || a.Location != fmt.Sprintf("/v1/operations/%d", o.ID) {
		return a, o, fmt.Errorf("%w: asked for %s of %s, Location %q: %s", ErrInterface, kind, node, a.Location, a)
	}
	return a, o, nil
}

// Operation returns an operation as n knows it.
func (n *Node) Operation(ctx context.Context, id uint64) (Operation, error) {
	var o Operation
	err := n.get(ctx, fmt.Sprintf("/v1/operations/%d", id), &o)
	return o, err
}

// Operations returns those that n knows, newest first.
func (n *Node) Operations(ctx context.Context) ([]Operation, error) {
	var list struct{ Operations []Operation }
	err := n.get(ctx, "/v1/operations", &list)
	return list.Operations, err
}

// TransferLeader hands leadership of a shard to node.
func (n *Node) TransferLeader(ctx context.Context, shard uint64, node string) (Answer, error) {
	return n.Ask(ctx, http.MethodPut, fmt.Sprintf("/v1/shards/%d/leader", shard), fmt.Sprintf(`{"node":%q}`, node),
		"Content-Type", "application/json")
}

// RemoveNode takes a node out of the table.
func (n *Node) RemoveNode(ctx context.Context, node string) (Answer, error) {
	return n.Ask(ctx, http.MethodDelete, "/v1/nodes/"+node, "")
}

// Drain begins to drain a node, or ends that.
func (n *Node) Drain(ctx context.Context, node string, drain bool) (Answer, error) {
	what := "undrain"
	if drain {
		what = "drain"
	}
	return n.Ask(ctx, http.MethodPost, "/v1/nodes/"+node+"/"+what, "")
}

// Cancel asks for the end of an operation.
func (n *Node) Cancel(ctx context.Context, operation uint64) (Answer, error) {
	return n.Ask(ctx, http.MethodDelete, fmt.Sprintf("/v1/operations/%d", operation), "")
}

// Rebuild begins the directory anew on n, as its plan says. An answer 200 is the plan, where something stands against it.
func (n *Node) Rebuild(ctx context.Context) (Answer, error) {
	const path = "/v1/directory/rebuild"
	a, err := n.Ask(ctx, http.MethodPost, path, "{}", "Content-Type", "application/json")
	if err != nil || a.Status != http.StatusOK {
		return a, err
	}
	var plan struct {
		Version uint64
		Against string
	}
	if err := json.Unmarshal(a.Body, &plan); err != nil || plan.Version == 0 {
		return a, fmt.Errorf("%w: a plan to rebuild the directory: %v: %s", ErrInterface, err, a)
	}
	if plan.Against != "" {
		return a, nil
	}
	return n.Ask(ctx, http.MethodPost, path, fmt.Sprintf(`{"unsafe":true,"version":%d}`, plan.Version), "Content-Type", "application/json")
}

// Set changes a setting of the cluster; "" is its default.
func (n *Node) Set(ctx context.Context, name, value string) (Answer, error) {
	body := fmt.Sprintf("{%q:%q}", name, value)
	if value == "" {
		body = fmt.Sprintf("{%q:null}", name)
	}
	return n.Ask(ctx, http.MethodPatch, "/v1/settings", body, "Content-Type", "application/merge-patch+json")
}

// NodeState is what a node says of another one.
type NodeState struct {
	ID        string
	State     string
	Replicas  int  // of data shards
	Directory bool // it has one of the directory
	Draining  bool
	Waits     []string
}

// Node returns what n says of a node.
func (n *Node) Node(ctx context.Context, node string) (NodeState, error) {
	var s NodeState
	err := n.get(ctx, "/v1/nodes/"+node, &s)
	return s, err
}
