//go:build !failpoint

package fp

// Point registers a point and answers its name: the value of a package variable that Hit is called with.
func Point(name string) string { return name }

// Hit does what a test asked for at this point.
func Hit(string) error { return nil }

// Off says that a test took a guard away.
func Off(string) bool { return false }

// Points lists the points that are registered or were passed, sorted.
func Points() []string { return nil }
