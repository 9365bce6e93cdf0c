package httpapi

import "net/http"

// showChecksum compares the replicas of a data shard. It is made anew for each request, and writes an
// entry to the shard's log.
func (s *server) showChecksum(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := shardOf(r)
	if err != nil {
		return err
	}
	ctx, cancel, err := bounded(r)
	if err != nil {
		return err
	}
	defer cancel()
	view, err := s.cfg.Admin.Checksum(ctx, id)
	if err != nil {
		return err
	}
	return writeJSON(w, r, view, "")
}
