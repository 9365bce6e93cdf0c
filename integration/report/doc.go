// Package report makes of a recorded run a folder that a person reads with pleasure.
//
// Write adds to a run's folder a summary as text and as JSON, and index.html, which says on its first screen what the
// verdict is, what it rests on and what would have made it another one, in words, and links all the rest. Where something
// is wrong it tells the violation that takes the least to see, step by step, and why no order explains it. Index makes
// a page over many runs.
//
// # Obligations
//
// A page loads nothing from elsewhere and needs no script, so that it can be sent as a folder and read in ten years.
// What a plot leaves out it says. Nothing here decides: the verdict is package check's, and a story claims no more than
// follows from the operations that it shows, or else what the check said.
//
// # Concurrency
//
// Everything is done when a function returns.
//
// # Caveats
//
// Plots are SVG that is written here, a few shapes each: a plotting library brings some thirty modules and writes a node
// per point. The scatter draws dots that would cover each other once, and of more than some thousands of a kind only some, evenly; its
// caption says so.
package report
