package realtime_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The phones of TestSockets: a load program that speaks WebSocket with as little work as
// there can be, so that what is measured is the server. It is the same for every server.

// phones holds what all connections count.
type phones struct {
	frames    atomic.Int64
	disorder  atomic.Int64 // frames whose sequence does not follow
	ended     atomic.Int64 // connections that the server ended
	last      atomic.Int64 // when the last frame was read, in ns
	latencies histogram
}

// histogram counts durations with a resolution of 1/64: log-linear buckets, as HDR's.
type histogram struct{ counts [64 * 40]atomic.Int64 }

func bucketOf(ns int64) int {
	if ns < 64 {
		return int(max(0, ns))
	}
	shift := bits.Len64(uint64(ns)) - 7
	return min(64*(shift+1)+int(ns>>shift)-64, 64*40-1)
}

func bucketTop(b int) int64 {
	if b < 64 {
		return int64(b)
	}
	return (int64(b%64) + 65) << (b/64 - 1)
}

// readings is what the phones report: latencies in ns at the quantiles named.
type readings struct {
	Frames, Disorder, Ended int64
	LastAt                  int64
	Quantiles               []int64
}

// quantiles are those that are reported and drawn.
var quantiles = []float64{0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1}

func (p *phones) report() readings {
	r := readings{Frames: p.frames.Load(), Disorder: p.disorder.Load(), Ended: p.ended.Load(), LastAt: p.last.Load()}
	var total int64
	for i := range p.latencies.counts {
		total += p.latencies.counts[i].Load()
	}
	for _, q := range quantiles {
		rank, seen := int64(math.Ceil(q*float64(total))), int64(0)
		at := 0
		for i := range p.latencies.counts {
			if seen += p.latencies.counts[i].Load(); seen >= rank {
				at = i
				break
			}
		}
		r.Quantiles = append(r.Quantiles, bucketTop(at))
	}
	return r
}

// runPhones takes the commands "open N", "await FRAMES" (of all since the start) and "reset".
func runPhones(j job) error {
	raw, err := os.ReadFile(j.Tokens)
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	p := &phones{}
	return answer(func(command string, args []string) (any, error) {
		n, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return nil, err
		}
		switch command {
		case "open":
			return p.open(j, lines[:n])
		case "await":
			p.await(n)
			return p.report(), nil
		case "reset":
			for i := range p.latencies.counts {
				p.latencies.counts[i].Store(0)
			}
			return nil, nil
		default:
			return nil, fmt.Errorf("no command %q", command)
		}
	})
}

func (p *phones) open(j job, lines []string) (any, error) {
	var (
		wg    sync.WaitGroup
		next  atomic.Int64
		wrong atomic.Value
	)
	start := time.Now()
	for range 32 {
		wg.Go(func() {
			for wrong.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(lines) {
					return
				}
				user, token, _ := strings.Cut(lines[i], " ")
				if err := p.connect(j, user, token); err != nil {
					wrong.Store(fmt.Errorf("phone %d: %w", i, err))
				}
			}
		})
	}
	wg.Wait()
	if err := wrong.Load(); err != nil {
		return nil, err.(error)
	}
	return struct{ TookMs int64 }{time.Since(start).Milliseconds()}, nil
}

// await waits for so many frames, or for the end of all progress.
func (p *phones) await(frames int64) {
	still := time.Now()
	for seen := int64(-1); p.frames.Load() < frames; time.Sleep(5 * time.Millisecond) {
		if now := p.frames.Load(); now != seen {
			seen, still = now, time.Now()
		} else if time.Since(still) > 5*time.Second {
			return
		}
	}
}

func (p *phones) connect(j job, user, token string) error {
	conn, err := net.Dial("tcp", j.Address)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conn, "GET /api/realtime?user=%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: bondmate.v1\r\n"+
		"User-Agent: okhttp/4.12.0\r\nAuthorization: Bearer %s\r\n\r\n", user, j.Address, token)
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(conn, 2048)
	status, err := r.ReadString('\n')
	if err != nil || !strings.Contains(status, " 101 ") {
		return fmt.Errorf("answered %q, %w", status, err)
	}
	for line := ""; line != "\r\n"; {
		if line, err = r.ReadString('\n'); err != nil {
			return err
		}
	}
	if j.Hello {
		if err := writeFrame(conn, 1, []byte(`{"op":"hello","visible":true}`)); err != nil {
			return err
		}
		_, body, err := readFrame(r)
		if err != nil {
			return err
		}
		var ready struct{ Op string }
		if err := json.Unmarshal(body, &ready); err != nil || ready.Op != "ready" {
			return fmt.Errorf("answered hello with %q", body)
		}
	}
	go func() {
		defer p.ended.Add(1)
		var last int64
		for {
			op, body, err := readFrame(r)
			if err != nil {
				return
			}
			switch op {
			case 1:
				last = p.heard(body, last)
			case 9:
				if writeFrame(conn, 10, body) != nil {
					return
				}
			default:
				return
			}
		}
	}()
	return nil
}

// heard counts an event's frame. Its data says when it was handed to the hub.
func (p *phones) heard(body []byte, last int64) (seq int64) {
	now := time.Now().UnixNano()
	seq = number(body, `"seq":`)
	if seq != last+1 {
		p.disorder.Add(1)
	}
	p.latencies.counts[bucketOf(now-number(body, `"at":`))].Add(1)
	p.last.Store(now)
	p.frames.Add(1)
	return seq
}

// number reads what follows the first appearance of a key.
func number(body []byte, key string) (n int64) {
	i := bytes.Index(body, []byte(key))
	if i < 0 {
		return 0
	}
	for _, c := range body[i+len(key):] {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

// readFrame reads a server's frame, which must be whole and unmasked; the body is good until the next.
func readFrame(r *bufio.Reader) (op byte, body []byte, err error) {
	head, err := r.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	op, size, skip := head[0]&15, int(head[1]&127), 2
	if size == 126 {
		if head, err = r.Peek(4); err != nil {
			return 0, nil, err
		}
		size, skip = int(binary.BigEndian.Uint16(head[2:])), 4
	}
	if size+skip > r.Size() {
		return 0, nil, io.ErrShortBuffer
	}
	frame, err := r.Peek(skip + size)
	if err != nil {
		return 0, nil, err
	}
	_, err = r.Discard(len(frame)) // stays in the buffer until the next Peek
	return op, frame[skip:], err
}

// writeFrame writes a client's frame, masked with zeros.
func writeFrame(w io.Writer, op byte, body []byte) error {
	_, err := w.Write(append([]byte{0x80 | op, 0x80 | byte(len(body)), 0, 0, 0, 0}, body...))
	return err
}
