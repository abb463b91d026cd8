// Reads a Comity log with the packages that check Go's own module log, golang.org/x/mod/sumdb/{note,tlog}.
//
//	check VKEY DIR   verify the checkpoint, every tile and every entry below DIR, and proofs between sizes
//	make COUNT       print a small log made by the same packages as JSON, for tests/vectors/go_tlog.json
//
// Go's tiles have their height in the path and no entry bundles; apart from that C2SP's are the same.
package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
	os.Exit(1)
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

// files reads tiles of a folder for tlog.
type files struct{ dir string }

func (f files) Height() int { return height }

func (f files) SaveTiles([]tlog.Tile, [][]byte) {}

func (f files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
		data, err := os.ReadFile(filepath.Join(f.dir, "tile", path))
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

func entries(dir string, size int64) [][]byte {
	var out [][]byte
	for start := int64(0); start < size; start += 256 {
		tile := tlog.Tile{H: height, L: 0, N: start / 256, W: 256}
		if size-start < 256 {
			tile.W = int(size - start)
		}
		path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/0/", height))
		data, err := os.ReadFile(filepath.Join(dir, "tile", "entries", path))
		must(err)
		for len(data) > 0 {
			length := int(binary.BigEndian.Uint16(data))
			out = append(out, data[2:2+length])
			data = data[2+length:]
		}
	}
	return out
}

func check(vkey, dir string) {
	verifier, err := note.NewVerifier(vkey)
	must(err)
	signed, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	must(err)
	opened, err := note.Open(signed, note.VerifierList(verifier))
	must(err)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		fail("not a checkpoint of %s", verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	tree := tlog.Tree{N: size, Hash: root}
	// This reader verifies each tile up to the root before it gives out a hash.
	reader := tlog.TileHashReader(tree, files{dir})
	all := entries(dir, size)
	if int64(len(all)) != size {
		fail("%d entries, not %d", len(all), size)
	}
	for index, entry := range all {
		hashes, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, int64(index))})
		must(err)
		if hashes[0] != tlog.RecordHash(entry) {
			fail("entry %d is not the one in its tile", index)
		}
	}
	for _, index := range []int64{0, 1, size / 2, size - 1} {
		if index < 0 || index >= size {
			continue
		}
		proof, err := tlog.ProveRecord(size, index, reader)
		must(err)
		must(tlog.CheckRecord(proof, size, root, index, tlog.RecordHash(all[index])))
		old, err := tlog.TreeHash(index+1, reader)
		must(err)
		path, err := tlog.ProveTree(size, index+1, reader)
		must(err)
		must(tlog.CheckTree(path, size, root, index+1, old))
	}
	fmt.Printf("ok: %d entries of %s\n", size, verifier.Name())
}

// stored keeps hashes in memory for tlog.
type stored []tlog.Hash

func (s *stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, index := range indexes {
		out = append(out, (*s)[index])
	}
	return out, nil
}

func encode(hashes []tlog.Hash) []string {
	out := []string{}
	for _, hash := range hashes {
		out = append(out, hash.String())
	}
	return out
}

func produce(count int64) {
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	name := "go.example/log"
	vkey, err := note.NewEd25519VerifierKey(name, public)
	must(err)
	id := strings.Split(vkey, "+")[1]
	skey := fmt.Sprintf("PRIVATE+KEY+%s+%s+%s", name, id, base64.StdEncoding.EncodeToString(append([]byte{1}, seed...)))
	signer, err := note.NewSigner(skey)
	must(err)
	var hashes stored
	sizes := []map[string]any{}
	for n := int64(0); n < count; n++ {
		more, err := tlog.StoredHashes(n, []byte(fmt.Sprintf("entry %d", n)), &hashes)
		must(err)
		hashes = append(hashes, more...)
	}
	root, err := tlog.TreeHash(count, &hashes)
	must(err)
	for _, size := range []int64{1, 2, 3, 255, 256, 257, count - 1} {
		old, err := tlog.TreeHash(size, &hashes)
		must(err)
		consistency, err := tlog.ProveTree(count, size, &hashes)
		must(err)
		inclusion, err := tlog.ProveRecord(count, size-1, &hashes)
		must(err)
		sizes = append(sizes, map[string]any{
			"size": size, "root": old.String(),
			"consistency": encode(consistency), "inclusion_of_last": encode(inclusion),
		})
	}
	tiles := map[string]string{}
	for _, tile := range tlog.NewTiles(height, 0, count) {
		data, err := tlog.ReadTileData(tile, &hashes)
		must(err)
		path := "tile/" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
		sum := tlog.RecordHash(data)
		tiles[path] = sum.String()
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", name, count, root)
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	must(err)
	out := map[string]any{
		"source": "golang.org/x/mod v0.7.0, sumdb/note and sumdb/tlog, by .ci/third-party/go (make " +
			strconv.FormatInt(count, 10) + "). Entry n is the text `entry n`. `tiles` are SHA-256(00 ‖ tile).",
		"vkey": vkey, "seed": base64.StdEncoding.EncodeToString(seed), "count": count,
		"checkpoint": string(signed), "root": root.String(), "sizes": sizes, "tiles": tiles,
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	must(encoder.Encode(out))
}

func main() {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "check":
		check(os.Args[2], os.Args[3])
	case len(os.Args) == 3 && os.Args[1] == "make":
		count, err := strconv.ParseInt(os.Args[2], 10, 64)
		must(err)
		produce(count)
	default:
		fail("usage: check VKEY DIR | make COUNT")
	}
}
