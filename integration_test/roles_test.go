package integration

import "github.com/pgidem/pgidem/integration_test/internal/proc"

// roles are what a child process can be.
var roles = map[string]func(*proc.Child) error{}
