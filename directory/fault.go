package directory

// bug is a seeded bug, as package shard has them: in builds with the tag faults alone, where LARDER_FAULTS names it.
type bug string

const (
	bugTwoChanges bug = "two-changes" // begin a change of a shard's members while another one is under way
)
