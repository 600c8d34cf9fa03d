package edge

import (
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"

	"github.com/CAFxX/httpcompression"
	"github.com/CAFxX/httpcompression/contrib/andybalholm/brotli"
	kgzip "github.com/CAFxX/httpcompression/contrib/klauspost/gzip"
	"github.com/CAFxX/httpcompression/contrib/klauspost/zstd"
)

const (
	// compressFrom is the least answer, in bytes, that is worth it: smaller ones fit into one
	// packet anyway.
	compressFrom = 1024
	// brotliQuality is where its time per answer is near gzip's.
	brotliQuality = 4
)

// Compress compresses answers with what the client prefers of zstd, Brotli and gzip. It
// leaves alone what is small, what is compressed already, and the answers with tokens in
// them: their length must not depend on what else is in the answer. It must not be around
// handlers that take the connection over.
func Compress(next http.Handler) (http.Handler, error) {
	z, err := zstd.New()
	if err != nil {
		return nil, fmt.Errorf("set up zstd: %w", err)
	}
	b, err := brotli.New(brotli.Options{Quality: brotliQuality})
	if err != nil {
		return nil, fmt.Errorf("set up brotli: %w", err)
	}
	g, err := kgzip.New(kgzip.Options{Level: gzip.DefaultCompression})
	if err != nil {
		return nil, fmt.Errorf("set up gzip: %w", err)
	}
	adapter, err := httpcompression.Adapter(
		httpcompression.ZstandardCompressor(z), httpcompression.BrotliCompressor(b), httpcompression.GzipCompressor(g),
		httpcompression.Prefer(httpcompression.PreferClient),
		httpcompression.MinSize(compressFrom),
		httpcompression.ContentTypes([]string{
			"application/json", "application/problem+json", "application/schema+json", "application/yaml",
			"text/html", "text/css", "text/javascript", "text/plain", "image/svg+xml",
		}, false),
	)
	if err != nil {
		return nil, fmt.Errorf("set up compression: %w", err)
	}
	compressed := adapter(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/auth/") || r.URL.Path == "/api/realtime/ticket" {
			next.ServeHTTP(w, r)
			return
		}
		compressed.ServeHTTP(w, r)
	}), nil
}
