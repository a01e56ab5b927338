//go:build race

package main

// The race detector allocates on its own.
const raceDetector = true
