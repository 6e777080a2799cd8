//go:build tools

// Package derper_judge pins the stock relay that judges ours: `go build tailscale.com/cmd/derper` in this directory.
// Nothing of it is in the program that is built.
package derper_judge

import _ "tailscale.com/cmd/derper"
