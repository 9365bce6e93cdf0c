// Package report makes of a recorded run a folder that a person reads with pleasure.
//
// Write adds to a run's folder a summary as text and as JSON, plots, pages for the keys that are wrong, and
// index.html, which says on its first screen what the verdict is and why, in words, and links all the rest. Index
// makes a page over many runs.
//
// # Obligations
//
// A page loads nothing from elsewhere and needs no script, so that it can be sent as a folder and read in ten years.
// What a plot leaves out it says. Nothing here decides: the verdict is package check's.
//
// # Concurrency
//
// Everything is done when a function returns.
//
// # Caveats
//
// Plots are SVG that is written here, a few shapes each: a plotting library brings some thirty modules and writes a node
// per point. The scatter keeps every operation that failed or was slow and thins out the rest, evenly over time; its caption
// says by how much.
package report
