package realtime_test

func plot([]benchRound) []byte { return nil }
