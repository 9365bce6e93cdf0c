package client

import "context"

// Leader returns the address, HOST:PORT, of the node to which c would send a request for key: the shard's leader as far as
// c knows, else a node that forwards. It is for programs that send requests of their own, and then tell
// by Answered what came of them. The error is the context's, or ErrClosed.
func (c *Client) Leader(ctx context.Context, key string) (string, error) {
	t := c.table.Load()
	if t == nil {
		if !c.begin() {
			return "", &Error{Op: "leader", Kind: ErrClosed, Applied: AppliedNo}
		}
		defer c.calls.Done()
		c.awaitTable(ctx)
		if err := ctx.Err(); err != nil {
			return "", err
		}
		t = c.table.Load()
	}
	sh := t.find(slotOf(key))
	if sh != nil {
		if n := sh.leader.Load(); n != nil && n.good() {
			return n.host, nil
		}
	}
	return c.candidates(sh, nil)[0].host, nil
}

// Answered tells c what came of a request for key that was sent to addr, which Leader returned: the id of the node that
// served it, as the header Larder-Served-By has it, or "" where there was no answer.
func (c *Client) Answered(key, addr, servedBy string) {
	t := c.table.Load()
	if t == nil {
		return
	}
	if servedBy == "" {
		for _, n := range t.nodes {
			if n.host == addr {
				p := path{c: c, slot: slotOf(key)}
				p.lost(n)
			}
		}
		return
	}
	if sh, leader := t.find(slotOf(key)), t.nodes[servedBy]; sh != nil && leader != nil {
		leader.answered()
		sh.leader.Store(leader)
	}
}
