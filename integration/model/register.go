package model

import (
	"fmt"

	"github.com/anishathalye/porcupine"

	"github.com/larder-cache/larder/integration/history"
)

// state is what a key holds. It is comparable, and equal states behave equally.
type state struct {
	present bool
	value   string
	// version of the value; 0 when the write that left it was never answered and nobody has read
	// it yet.
	version uint64
	// floor is the highest version that the key is known to have had.
	floor uint64
}

// learn returns s with its version known to be v, and whether that is possible.
func (s state) learn(v uint64) (state, bool) {
	switch {
	case !s.present || v == 0:
		return s, false
	case s.version != 0:
		return s, s.version == v
	case v <= s.floor:
		return s, false
	}
	s.version, s.floor = v, v
	return s, true
}

// stored returns the state after a put that was given version v.
func (s state) stored(value string, v uint64) (state, bool) {
	if v <= s.floor {
		return s, false
	}
	return state{present: true, value: value, version: v, floor: v}, true
}

// storedUnknown returns the state after a put that was never answered.
func (s state) storedUnknown(value string) state {
	return state{present: true, value: value, floor: s.floor}
}

// removed returns the state after a delete; v is its version, 0 when the answer did not tell it.
func (s state) removed(v uint64) (state, bool) {
	if v != 0 && v <= s.floor {
		return s, false
	}
	return state{floor: max(s.floor, v)}, true
}

// conflicts returns the state after a condition was refused, with version v shown (0: absent).
func (s state) conflicts(v uint64) (state, bool) {
	if v == 0 {
		return s, !s.present
	}
	return s.learn(v)
}

// matches reports whether the condition "the version is v" holds. A version that isn't known yet
// can't be v: v was shown before by an answer that came earlier in the order, which had made it known.
func (s state) matches(v uint64) bool { return s.present && s.version == v }

// step returns the state after o, and whether s allows o's answer. Operations that were refused
// must not be given to it.
func step(s state, o *history.Operation) (state, bool) {
	unknown := o.Outcome == history.Unknown
	switch o.Kind {
	case history.Get:
		if !o.Found {
			return s, !s.present
		}
		if s.value != o.Read {
			return s, false
		}
		return s.learn(o.Version)

	case history.Put:
		if unknown {
			return s.storedUnknown(o.Value), true
		}
		if o.Existed != s.present {
			return s, false
		}
		return s.stored(o.Value, o.Version)

	case history.Create:
		switch {
		case unknown && s.present:
			return s, true
		case unknown:
			return s.storedUnknown(o.Value), true
		case o.Conflict:
			if o.Version == 0 { // a create conflicts with a value, which has a version
				return s, false
			}
			return s.conflicts(o.Version)
		case s.present:
			return s, false
		}
		return s.stored(o.Value, o.Version)

	case history.Replace:
		switch {
		case unknown && s.matches(o.IfMatch):
			return s.storedUnknown(o.Value), true
		case unknown:
			return s, true
		case o.Conflict:
			return refuse(s, o)
		case !s.matches(o.IfMatch):
			return s, false
		}
		return s.stored(o.Value, o.Version)

	case history.Delete:
		if unknown {
			return s.removed(0)
		}
		if o.Existed != s.present {
			return s, false
		}
		return s.removed(o.Version)

	case history.DeleteIf:
		switch {
		case unknown && s.matches(o.IfMatch):
			return s.removed(0)
		case unknown:
			return s, true
		case o.Conflict:
			return refuse(s, o)
		case !s.matches(o.IfMatch) || !o.Existed:
			return s, false
		}
		return s.removed(o.Version)
	}
	panic("model: unknown kind " + string(o.Kind))
}

// refuse is step for a refused "the version is IfMatch": what stands there is something else.
func refuse(s state, o *history.Operation) (state, bool) {
	if o.Version == o.IfMatch {
		return s, false
	}
	return s.conflicts(o.Version)
}

// Register returns the model of one key. Inputs are *history.Operation, outputs are not used.
func Register() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return state{} },
		Step: func(s, input, _ any) (bool, any) {
			next, ok := step(s.(state), input.(*history.Operation))
			return ok, next
		},
		Equal: func(a, b any) bool { return a.(state) == b.(state) },
		DescribeOperation: func(input, _ any) string {
			return input.(*history.Operation).String()
		},
		DescribeState: func(s any) string {
			st := s.(state)
			if !st.present {
				return fmt.Sprintf("absent, above %d", st.floor)
			}
			return fmt.Sprintf("%q version %d", st.value, st.version)
		},
	}
}
