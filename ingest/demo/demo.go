// Package demo is the development page at /demo: two phones side by side, each a real
// client of the HTTP and WebSocket API through static/client.js, the reference client.
// It is plain files without a build step and has no access of its own to anything.
package demo

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed static
var static embed.FS

// policy allows what the page is made of and nothing else: no inline script, no other origin.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; " +
	"connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page under /demo/. What the push stand-in received is at
// /demo/pushes when pushes is not nil; without one no push is shown.
func Handler(pushes http.Handler) http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil {
		panic(err) // the folder is embedded: this cannot happen in a program that builds
	}
	mux := http.NewServeMux()
	mux.Handle("GET /demo/", http.StripPrefix("/demo/", http.FileServerFS(files)))
	mux.Handle("GET /demo", http.RedirectHandler("/demo/", http.StatusMovedPermanently))
	if pushes != nil {
		mux.Handle("GET /demo/pushes", pushes)
	} else {
		mux.HandleFunc("GET /demo/pushes", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"pushes":[]}`))
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Cache-Control", "no-cache")
		mux.ServeHTTP(w, r)
	})
}
