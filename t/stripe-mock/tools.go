//go:build tools
// +build tools

// Package tools names the program that scripts/stripe-mock builds; go.sum holds its checksums.
package tools

import _ "github.com/stripe/stripe-mock"
