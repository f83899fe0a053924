package migrations

import (
	"embed"
	"io/fs"
)

//go:embed all:catalog
var catalogFiles embed.FS

//go:embed all:tenant
var tenantFiles embed.FS

// embedded is a folder of our own as a file system. The name is a constant, so Sub cannot fail.
func embedded(files embed.FS, folder string) fs.FS {
	sub, err := fs.Sub(files, folder)
	if err != nil {
		panic(err)
	}
	return sub
}
