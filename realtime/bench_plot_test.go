package realtime_test

import (
	"bytes"
	"fmt"
	"math"
	"time"
)

// The plot of TestSockets: latencies over their quantiles, and the memory of a socket.

const (
	plotLeft, plotTop, plotWide, plotHigh = 70, 50, 520, 300

	barsLeft = plotLeft + plotWide + 90
	barsWide = 200
)

var plotColours = map[string]string{"gateway": "#1f6feb", "bare": "#9a6700"}

var plotNames = map[string]string{"gateway": "Bond Mate", "bare": "bare gorilla"}

// plot draws the medians of the rounds as SVG.
func plot(rounds []benchRound) []byte {
	var b bytes.Buffer
	text := func(x, y float64, anchor, what string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, what)
	}
	line := func(x1, y1, x2, y2 float64) {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#d0d7de"/>`+"\n", x1, y1, x2, y2)
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="#24292f">`+"\n",
		barsLeft+barsWide+20, plotTop+plotHigh+60)
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	text(plotLeft, 24, "start", fmt.Sprintf("From the hub to the phone: %d sockets, %d events/s, median of %d rounds", *benchSockets, *benchRate, *benchRounds))

	// Down to the tail each step of the axis is a tenth of what is left: 0, 90, 99, 99.9 %.
	at := func(q float64) float64 { return plotLeft + plotWide*min(1, -math.Log10(max(1-q, 1e-4))/4) }
	// From 10 µs to 100 ms.
	of := func(d time.Duration) float64 {
		return plotTop + plotHigh*(1-min(1, max(0, math.Log10(d.Seconds()/1e-5)/4)))
	}
	for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 0.9999} {
		line(at(q), plotTop, at(q), plotTop+plotHigh)
		text(at(q), plotTop+plotHigh+18, "middle", fmt.Sprintf("%g %%", q*100))
	}
	text(plotLeft+plotWide/2, plotTop+plotHigh+38, "middle", "share of the events")
	for d := 10 * time.Microsecond; d <= 100*time.Millisecond; d *= 10 {
		line(plotLeft, of(d), plotLeft+plotWide, of(d))
		text(plotLeft-8, of(d)+4, "end", d.String())
	}
	servers := []string{"gateway", "bare"}
	for i, server := range servers {
		fmt.Fprintf(&b, `<polyline fill="none" stroke-width="2" stroke="%s" points="`, plotColours[server])
		for n, q := range quantiles {
			if q > 0.9999 {
				continue
			}
			d := medianOf(rounds, server, func(r benchRound) int64 { return r.Readings.Quantiles[n] })
			fmt.Fprintf(&b, "%.1f,%.1f ", at(q), of(time.Duration(d)))
		}
		b.WriteString(`"/>` + "\n")
		y := float64(plotTop + 20 + 18*i)
		fmt.Fprintf(&b, `<rect x="%d" y="%.1f" width="12" height="12" fill="%s"/>`+"\n", plotLeft+12, y-10, plotColours[server])
		text(plotLeft+30, y, "start", plotNames[server])
	}

	text(barsLeft, 24, "start", "KiB of memory a socket, idle")
	const most = 20.0
	for i, server := range servers {
		kib := medianOf(rounds, server, func(r benchRound) float64 { return r.Open })
		high := plotHigh * min(1, kib/most)
		x := float64(barsLeft + i*barsWide/2)
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%d" height="%.1f" fill="%s"/>`+"\n", x, plotTop+plotHigh-high, barsWide/2-30, high, plotColours[server])
		text(x+(barsWide/2-30)/2, plotTop+plotHigh-high-6, "middle", fmt.Sprintf("%.1f", kib))
		text(x+(barsWide/2-30)/2, plotTop+plotHigh+18, "middle", plotNames[server])
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
