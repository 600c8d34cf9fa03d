package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/gorilla/mux"

	"github.com/bondmate/backend/pkg/fault"
)

// A wait is between nothing and the most there is, in whole seconds, and what stands behind
// the first wait changes nothing.
func FuzzPrefer(f *testing.F) {
	for _, s := range []string{"wait=5", "respond-async, wait=2; x=y", `wait="3"`, "wait=-1", "wait=99999999999999999999", "WAIT = 7", ",,;=", "wait", "wait=", "wait=٣", "wait=0x5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, prefer string) {
		wait := preferredWait(&prefer)
		if wait < 0 || wait > maxWait || wait%time.Second != 0 {
			t.Fatalf("%q: %v", prefer, wait)
		}
		if more := prefer + ", wait=9"; wait > 0 && preferredWait(&more) != wait {
			t.Fatalf("%q: %v, and %q: %v", prefer, wait, more, preferredWait(&more))
		}
	})
}

// The same call has one id and one fingerprint at every instance, however its body is
// spelled; another key, path or issuer has another id, another body another fingerprint.
func FuzzIdentify(f *testing.F) {
	f.Add("k", "/api/a", "x=1&y=2", `{"a":1,"b":[true,null,"ü"]}`)
	f.Add("k\n/api/a", "/api", "", `{}`)
	f.Add(" ", "/%0a", "a=%0a;b", `[1.0,1e2,-0]`)
	f.Add("", "", "", `"x"`)
	issuer := uuid.MustParse("5f0c7a52-6d3b-4c56-9a53-3f1f5b4f3a10")
	f.Fuzz(func(t *testing.T, key, path, query, body string) {
		identified := func(issuer uuid.UUID, key, path, body string) intent {
			in := intent{issuer: issuer}
			var value any
			decoder := json.NewDecoder(bytes.NewReader([]byte(body)))
			decoder.UseNumber()
			if err := decoder.Decode(&value); err != nil {
				t.Skip()
			}
			if err := in.identify(key, http.MethodPost, &url.URL{Path: path, RawQuery: query}, value); err != nil {
				t.Fatal(err)
			}
			return in
		}
		one := identified(issuer, key, path, body)
		var indented bytes.Buffer
		if json.Valid([]byte(body)) {
			if err := json.Indent(&indented, []byte(body), " ", "\t"); err != nil {
				t.Fatal(err)
			}
			if again := identified(issuer, key, path, indented.String()); again.fingerprint != one.fingerprint || key != "" && again.id != one.id {
				t.Fatalf("%q spelled %q is another call", body, indented.String())
			}
		}
		if key == "" {
			if one.keyed || one.id.Version() != 7 {
				t.Fatalf("without a key: %+v", one)
			}
			return
		}
		if !one.keyed {
			t.Fatal("a key is not used")
		}
		others := map[string]intent{
			"another issuer": identified(uuid.Max, key, path, body), "another key": identified(issuer, key+"x", path, body),
			"another path": identified(issuer, key, path+"/x", body),
		}
		for name, other := range others {
			if other.id == one.id {
				t.Fatalf("%s has the same id", name)
			}
		}
		if wrapped := identified(issuer, key, path, `{"z":`+body[:min(len(body), 0)]+`1}`); wrapped.id != one.id {
			t.Fatal("the id depends on the body")
		}
	})
}

// bodied returns the operations that read a body, in one order.
func bodied(f *testing.F) []*operation {
	d, err := loadDocument()
	if err != nil {
		f.Fatal(err)
	}
	var ops []*operation
	for _, op := range d.byName {
		if op.body != nil {
			ops = append(ops, op)
		}
	}
	slices.SortFunc(ops, func(a, b *operation) int {
		return bytes.Compare([]byte(a.method+a.template), []byte(b.method+b.template))
	})
	return ops
}

// Whatever the bytes of a body: it is refused with an error of the caller's that is bounded
// and repeats none of it, or it is JSON of bounded depth and valid text that the operation
// gets to see as it was sent.
func FuzzBody(f *testing.F) {
	ops := bodied(f)
	for i := range ops {
		f.Add(uint8(i), "application/json", []byte(`{"email":"a@b.c","password":"a long pass phrase","displayName":"A","x":1}`))
	}
	for _, body := range []string{
		``, ` `, `null`, `{}`, `[]`, `{"a":`, `{}{}`, "\xff", `"\ud800"`, `{"seq":1e999999}`, `{"seq":-0}`, `{"total":1.0}`, `{"total":1e0}`, `{"a":{"b":{}}}`,
		`{"themeEntries":{"a":"b"}}`, `{"` + string(bytes.Repeat([]byte("a"), 300)) + `":1}`, `{"displayName":"\u0000"}`, `{"toUserId":"5F0C7A52-6D3B-4C56-9A53-3F1F5B4F3A10"}`,
		string(bytes.Repeat([]byte("["), 100)), `{"password":"secret one","password":2}`,
	} {
		for _, i := range []uint8{0, 3, 9} {
			f.Add(i, "application/json; charset=utf-8", []byte(body))
		}
	}
	f.Add(uint8(0), "text/plain", []byte(`{}`))
	f.Add(uint8(0), ";", []byte(`{}`))
	f.Fuzz(func(t *testing.T, which uint8, contentType string, body []byte) {
		op := ops[int(which)%len(ops)]
		x := &exchange{}
		r := httptest.NewRequest(op.method, "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		vars := map[string]string{}
		for _, p := range op.parameters {
			if p.In == "path" {
				vars[p.Name] = uuid.NewString()
			}
		}
		validated, err := op.validate(httptest.NewRecorder(), mux.SetURLVars(r, vars))
		if err != nil {
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Kind != fault.Invalid || len(f.Fields) > maxFieldErrors {
				t.Fatalf("%s %s %q: %v", op.method, op.template, body, err)
			}
			for _, field := range f.Fields {
				if !utf8.ValidString(field.Pointer) || len(field.Pointer) > len(body)*2+100 || len(field.Detail) > 300 {
					t.Fatalf("%s %s: field %+v", op.method, op.template, field)
				}
			}
			return
		}
		if x.body == nil {
			if op.bodyRequired && len(bytes.TrimSpace(body)) == 0 {
				t.Fatalf("%s %s goes on without a body", op.method, op.template)
			}
			return
		}
		if !json.Valid(body) || !utf8.Valid(body) || depth(body) > maxDepth || int64(len(body)) > op.maxBody {
			t.Fatalf("%q is let through", body)
		}
		if seen, err := io.ReadAll(validated.Body); err != nil || !bytes.Equal(seen, body) {
			t.Fatalf("%q is seen as %q, %v", body, seen, err)
		}
		// What is fingerprinted is what was sent: encoded and read again it is the same.
		canonical, err := json.Marshal(x.body)
		if err != nil {
			t.Fatal(err)
		}
		var again any
		decoder := json.NewDecoder(bytes.NewReader(canonical))
		decoder.UseNumber()
		if err := decoder.Decode(&again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(x.body, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

// What is taken from a header into logs, records and answers is short and printable.
func FuzzTracingHeaders(f *testing.F) {
	f.Add("abc-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Bond Mate 3.1")
	f.Add("a\nb", "00-x", "\xff")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, id, trace, agent string) {
		r := &http.Request{Header: http.Header{"X-Request-Id": {id}, "Traceparent": {trace}, "User-Agent": {agent}}}
		got := requestID(r)
		if got == "" || len(got) > maxRequestID {
			t.Fatalf("%q: %q", id, got)
		}
		for _, text := range []string{got, traceparent(r)} {
			for _, c := range []byte(text) {
				if c <= ' ' || c > '~' {
					t.Fatalf("%q is not printable", text)
				}
			}
		}
		if trace := traceparent(r); trace != "" && len(trace) != 55 {
			t.Fatalf("a traceparent of %d", len(trace))
		}
		if kept := userAgent(r); len(kept) > maxUserAgent || !utf8.ValidString(kept) {
			t.Fatalf("%q is kept as %q", agent, kept)
		}
	})
}
