package migrations

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// FS gives a set of files the form of a directory, so that a set kept in the catalog can be read like one on disk.
func FS(files []File) fs.FS {
	m := memory{}
	for _, f := range files {
		m[fmt.Sprintf("%06d_%s.up.sql", f.Version, f.Name)] = f.Up
		if f.Down != "" {
			m[fmt.Sprintf("%06d_%s.down.sql", f.Version, f.Name)] = f.Down
		}
	}
	return m
}

// memory is one flat directory: name -> text. It is never written after FS, so any number of readers may share it.
type memory map[string]string

func (m memory) Open(name string) (fs.File, error) {
	if name == "." {
		return &memoryDir{entries: m.entries()}, nil
	}
	text, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memoryFile{Reader: strings.NewReader(text), info: memoryInfo{name: name, size: int64(len(text))}}, nil
}

func (m memory) entries() []fs.DirEntry {
	entries := make([]fs.DirEntry, 0, len(m))
	for name, text := range m {
		entries = append(entries, memoryInfo{name: name, size: int64(len(text))})
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries
}

type memoryFile struct {
	*strings.Reader
	info memoryInfo
}

func (f *memoryFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *memoryFile) Close() error               { return nil }

type memoryDir struct{ entries []fs.DirEntry }

func (d *memoryDir) Stat() (fs.FileInfo, error) { return memoryInfo{name: ".", dir: true}, nil }
func (d *memoryDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: ".", Err: fs.ErrInvalid}
}
func (d *memoryDir) Close() error { return nil }

func (d *memoryDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(d.entries)
	} else if len(d.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.entries))
	batch := d.entries[:n]
	d.entries = d.entries[n:]
	return batch, nil
}

// memoryInfo is both what a directory lists and what a file says about itself.
type memoryInfo struct {
	name string
	size int64
	dir  bool
}

func (i memoryInfo) Name() string               { return i.name }
func (i memoryInfo) Size() int64                { return i.size }
func (i memoryInfo) IsDir() bool                { return i.dir }
func (i memoryInfo) ModTime() time.Time         { return time.Time{} }
func (i memoryInfo) Sys() any                   { return nil }
func (i memoryInfo) Type() fs.FileMode          { return i.Mode().Type() }
func (i memoryInfo) Info() (fs.FileInfo, error) { return i, nil }

func (i memoryInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
