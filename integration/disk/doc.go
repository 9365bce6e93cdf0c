// Package disk gives a node a disk of its own that loses power, runs full and is slow, and damages a node's files.
//
// A Loop is an ext4 file system in a file, mounted over a loop device. Power is cut by the file system's own shutdown
// without a flush of its journal: what was synced is there after the next mount, what was not is not, and meanwhile each write fails.
//
// Damage is done to files of a node that does not run, by a seed, in places that matter: in the last entries of a replica's
// log, as bbolt keeps them or Pebble where the node's replicas share a log, in its newest snapshot, or anywhere in a file that belongs to a log.
// Each function says which file it changed, where, and from what to what. What may come of it: damage of a replica's entries costs that replica; of
// Pebble's own log, or of what says which files there are, it costs the node, which must not run and must say why. No write
// that was acknowledged may be lost as long as a majority of its shard is undamaged, be it the last one: after kill -9 there is none of which a node may not know.
//
// # Obligations
//
// Close unmounts, frees the loop device and removes the file. What a process that was killed left behind, Remove removes:
// it needs the paths of the file and the mount alone, and touches no mount whose device is not backed by that file.
//
// # Concurrency
//
// A Loop's methods may be called by any goroutine, one after the other but for Shutdown, which may be called
// while the others of the same disk are at work. Functions that damage must have the files for themselves.
//
// # Caveats
//
// Linux, root, loop devices and mkfs.ext4 for a Loop; Supported tells. Damage works anywhere. A slow disk is one that
// is frozen again and again: a sync takes about the time asked for, one after another. Power loss shows what a disk that keeps its promises does;
// a torn write is shown by TearLog, in bbolt's files. Loss of power and damage never come together: after the one, damage of the very last write to
// a shared log, without one after it, is taken for a torn write, which no disk that keeps its promises shows.
//
// # Why not FUSE or device mapper
//
// The first needs a file system written for it that nobody keeps up, and the second a kernel built for it. The shutdown of ext4 needs neither.
package disk
