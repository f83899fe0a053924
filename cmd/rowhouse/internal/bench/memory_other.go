//go:build !linux

package bench

// MemoryDir is known on Linux only.
func MemoryDir() string { return "" }
